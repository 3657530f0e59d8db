"""Entries at data.path that cannot be data are named before they are opened; all data are files that DVC hashes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from ruamel.yaml import YAML

from ddpm.data.preparing import tree
from ddpm.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder outside the project with one image in each of two class folders."""
    for name, colour in (("cats", "red"), ("dogs", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name / "1.png")
    return tmp_path / "photos"


def test_links_to_files_and_a_folder_that_is_a_link_are_data(photos: Path, tmp_path: Path) -> None:
    (photos / "cats" / "2.png").symlink_to(photos / "dogs" / "1.png")
    (tmp_path / "raw").symlink_to(photos)
    assert sorted(tree.files(tmp_path / "raw")) == ["cats/1.png", "cats/2.png", "dogs/1.png"]
    tree.require_readable(tmp_path / "raw", source="folder")
    tree.require_readable(photos / "cats" / "2.png", source="archive")


def linked_folder(raw: Path) -> None:
    (raw / "x").symlink_to(raw.parent, target_is_directory=True)


def bound_socket(raw: Path) -> None:
    here = Path.cwd()
    os.chdir(raw)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("x")
    os.chdir(here)


UNFIT: dict[str, Callable[[Path], None]] = {
    r"x \(a link to a folder\)": linked_folder,
    r"x \(a pipe\)": lambda raw: os.mkfifo(raw / "x"),
    r"\.x \(a pipe\)": lambda raw: os.mkfifo(raw / ".x"),
    r"x \(a device\)": lambda raw: (raw / "x").symlink_to("/dev/zero"),
    r"x \(a socket\)": bound_socket,
    r"x \(a link to nothing that can be read\)": lambda raw: (raw / "x").symlink_to("nowhere"),
    r"\\udcff\.png \(a name that is not UTF-8\)": lambda raw: Path(os.fsdecode(bytes(raw) + b"/\xff.png")).touch(),
}


@pytest.mark.parametrize("says", UNFIT)
def test_what_cannot_be_data_is_named_without_being_opened(photos: Path, says: str) -> None:
    UNFIT[says](photos)
    with pytest.raises(UserError, match=rf"photos, in which {says} cannot be data, since DVC"):
        tree.require_readable(photos, source="folder")
    with pytest.raises(UserError, match=says):
        tree.files(photos)


def test_only_some_of_many_are_named(photos: Path) -> None:
    for k in range(8):
        os.mkfifo(photos / str(k))
    with pytest.raises(UserError, match=r"(\d \(a pipe\), ){4}\d \(a pipe\) and 3 more cannot be data"):
        tree.files(photos)


def test_links_to_folders_that_are_not_read_are_allowed(photos: Path) -> None:
    (photos / ".thumbnails").symlink_to(photos.parent)
    assert sorted(tree.files(photos)) == ["cats/1.png", "dogs/1.png"]
    (photos / "birds").symlink_to(photos.parent)
    tree.require_readable(photos, source="digits")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda raw: None, "which was not found; put your images there"),
        (lambda raw: raw.symlink_to("nowhere"), "which was not found; put your images there"),
        (os.mkfifo, "raw, a pipe; give a folder of images, or an archive"),
    ],
)
def test_a_path_that_is_neither_file_nor_folder_is_refused(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    make(tmp_path / "raw")
    with pytest.raises(UserError, match=says):
        tree.require_readable(tmp_path / "raw", source="folder")


def test_dvc_detects_changes_of_all_files_that_count_as_data(photos: Path, tmp_path: Path) -> None:
    """In one project the target of every kind of link that counts as data changes."""
    project, shown = tmp_path / "project", {"prepare": [{"changed deps": {"raw": "modified"}}]}
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    stage = {"cmd": "echo done > out", "deps": ["raw"], "outs": ["out"]}
    YAML().dump({"stages": {"prepare": stage}}, project / "dvc.yaml")
    (project / "raw").symlink_to(photos)
    elsewhere = tmp_path / "elsewhere.png"
    Image.new("RGB", (8, 8)).save(elsewhere)
    (photos / "cats" / "2.png").symlink_to(elsewhere)
    assert sorted(tree.files(project / "raw")) == ["cats/1.png", "cats/2.png", "dogs/1.png"]
    dvc(project, "repro")
    assert json.loads(dvc(project, "status", "--json")) == {}
    before = elsewhere.read_bytes()
    Image.new("RGB", (8, 8), "green").save(elsewhere)
    assert json.loads(dvc(project, "status", "--json")) == shown
    elsewhere.write_bytes(before)
    assert json.loads(dvc(project, "status", "--json")) == {}
    (photos / "dogs" / "1.png").unlink()
    assert json.loads(dvc(project, "status", "--json")) == shown


def dvc(folder: Path, *words: str) -> str:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
