"""The stage `configure` alone and in front of others: a wrong value stops before anything is built, a right one only
what reads it."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from ddpm.errors import UserError
from ddpm.stages import configure as configure_stage
from ddpm.stages.stage import Stage

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
STAGE: dict[str, Any] = STAGES["configure"]
PASSED = [name for out in STAGE["outs"] for name in out]
yaml = YAML()


def write(folder: Path, **changes: dict[str, Any]) -> None:
    """params.yaml with these changes, by section."""
    params = yaml.load(ROOT / "params.yaml")
    for section, values in changes.items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")
    (folder / "data/raw").mkdir(parents=True, exist_ok=True)


def configure(folder: Path, **changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    write(folder, **changes)
    words = STAGE["cmd"].split()
    (folder / words[-1]).parent.mkdir(exist_ok=True)
    return subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True)


def configured(**changes: dict[str, Any]) -> str:
    """Run the stage here, in this process, and return what it leaves."""
    write(Path(), **changes)
    paths = {"starts": Path("data/starts"), "passed": Path("data/configured.json")}
    configure_stage.main(Stage(argparse.Namespace(**paths)))
    return paths["passed"].read_text()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"promote": {"rules": [{"figure": "beauty", "at_most": 1.0}]}},
            "promote.rules.0: figure is 'beauty', expected one of fid,",
        ),
        (
            {"promote": {"rules": [{"figure": "fid_second", "at_most": 1.0}]}},
            "promote.rules has a rule for fid_second, which nothing measures where features.second is null; set",
        ),
        (
            {"sample": {"guidance": 2.0, "guide": "weak"}},
            "sample.guide is weak, expected the path of an existing file",
        ),
        (
            {"train": {"start": "w.safetensors"}},
            "train.start is w.safetensors, expected champion, or a model in data/st",
        ),
        ({"train": {"start": "data/starts/w"}}, "expected a model file, or a folder of diffusers with config.json or"),
        ({"features": {"inception_weights": "w.pth"}}, "features.inception_weights is w.pth, expected the path of"),
        pytest.param(
            {"runtime": {"device": "mps"}},
            "runtime.device is mps, which torch does not find on this machine",
            marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS"),
        ),
    ],
)
def test_a_wrong_value_of_a_later_stage_is_one_sentence_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(says)):
        configured(**changes)


HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'


@pytest.mark.parametrize("content", [b"a note", len(HEADER).to_bytes(8, "little") + HEADER + bytes(7)])
def test_a_file_that_is_no_whole_model_file_is_refused_as_a_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data/starts").mkdir(parents=True)
    (tmp_path / "data/starts/note.txt").write_bytes(content)
    done = configure(tmp_path, train={"start": "data/starts/note.txt"})
    assert done.returncode == 1
    assert "train.start is data/starts/note.txt, which is not a complete safetensors file (" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_right_leaves_the_same_file_and_what_nothing_reads_is_said(tmp_path: Path) -> None:
    plain = configure(tmp_path)
    assert (plain.returncode, plain.stdout, plain.stderr) == (0, "", "")
    left = (tmp_path / "data/configured.json").read_text()
    other = configure(tmp_path, objective={"p2_gamma": 0.5}, network={"attention": [5]}, promote={"max_images": 9})
    assert other.returncode == 0
    assert [line.partition(",")[0] for line in other.stdout.splitlines()] == ["warning: objective.p2_gamma is 0.5"]
    other = configure(tmp_path, train={"lr": 0.5}, promote={"max_images": 9})
    assert (tmp_path / "data/configured.json").read_text() == left
    sized = configure(tmp_path, data={"size": 32})
    assert sized.stdout.startswith("warning: network.attention has [4], ")


def test_the_next_stages_wait_for_what_a_size_depends_on_only_where_it_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written: dict[int | None, list[str]] = {}
    for size in (None, 32):
        for change in ({}, {"network": {"width": 64}}, {"train": {"max_hours": 2.0}}, {"train": {"images": 70000}}):
            written.setdefault(size, []).append(configured(data={"size": size}, **change))
    assert len(set(written[None])) == 4
    assert len(set(written[32])) == 1


def test_dvc_starts_no_stage_for_a_wrong_value_and_for_a_right_one_only_those_that_read_it(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "said.txt").write_text("one")
    after = {
        "cmd": 'python -c "open(\'ran\', \'a\').write(\'ran \'); open(\'out\', \'w\')"',
        "deps": [*PASSED, "said.txt"],
        "params": ["data"],
        "outs": ["out"],
    }  # fmt: skip
    head = STAGE | {"deps": [], "cmd": STAGE["cmd"].replace("python", sys.executable, 1)}
    yaml.dump({"stages": {"configure": head, "after": after}}, tmp_path / "dvc.yaml")

    def repro(**changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        write(tmp_path, **changes)
        words = [sys.executable, "-m", "dvc", "repro"]
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    first = repro()
    assert first.returncode == 0, first.stderr
    (tmp_path / "said.txt").write_text("two")
    wrong = repro(promote={"max_images": -1})
    assert wrong.returncode != 0
    assert "promote: max_images is -1, expected 1 to 1,000,000" in wrong.stderr
    assert (tmp_path / "ran").read_text() == "ran ", "nothing was built though the data had changed"
    assert repro(promote={"max_images": 2}, runtime={"progress": False}).returncode == 0
    assert (tmp_path / "ran").read_text() == "ran ran "
    again = repro(promote={"max_images": 3})
    assert again.returncode == 0
    assert "Stage 'after' didn't change, skipping" in again.stdout
    assert (tmp_path / "ran").read_text() == "ran ran "


def test_dvc_prepares_anew_for_another_size_and_does_not_take_the_images_of_the_size_before(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    head = STAGE | {"deps": [], "cmd": STAGE["cmd"].replace("python", sys.executable, 1)}
    prepare = {"cmd": "cp params.yaml out", "deps": PASSED, "params": STAGES["prepare"]["params"], "outs": ["out"]}
    yaml.dump({"stages": {"configure": head, "prepare": prepare}}, tmp_path / "dvc.yaml")
    for size in (4, 8):
        write(tmp_path, data={"size": size})
        subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=tmp_path, check=True)
        assert yaml.load(tmp_path / "out")["data"]["size"] == size
    write(tmp_path, data={"size": -1})
    wrong = subprocess.run([sys.executable, "-m", "dvc", "repro"], cwd=tmp_path, capture_output=True, text=True)
    assert "data: size is -1" in wrong.stderr


def test_dvc_does_not_walk_a_new_folder_of_images_that_it_would_never_leave(tmp_path: Path) -> None:
    write(tmp_path, data={"source": "folder", "path": "photos"})
    (tmp_path / "photos").mkdir()
    os.mkfifo(tmp_path / "photos/pipe.png")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n")
    head = STAGE | {"deps": [], "cmd": STAGE["cmd"].replace("python", sys.executable, 1)}
    after = {"cmd": "echo walked > out", "deps": ["${data.path}", *PASSED], "outs": ["out"]}
    yaml.dump({"stages": {"configure": head, "prepare": after}}, tmp_path / "dvc.yaml")
    words = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "error: data.path is photos, in which pipe.png (a pipe) cannot be data" in done.stderr
