"""A damaged shard of the right size is detected wherever it is, and the command that the error names repairs it."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from ddpm.compute.settings import Runtime
from ddpm.data.reading import shard_cache
from ddpm.data.reading.dataset import Facts, read_split
from ddpm.data.reading.shard_index import read_index
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
IMAGES = np.random.default_rng(0).integers(1, 256, (12, 1, 8, 8), np.uint8)  # without zeros, which damage makes
SHARD_BYTES = 128 + 5 * 64
FACTS = Facts("noise", "folder", 1, 8, (), 12, 12, 24, 24, {}, "c" * 64)
SLOW = pytest.mark.slow
OFFSETS = (0, 100, 150, 128 + 5 * 64 - 1)
"""Offsets of the damage: first byte, header, pixels and last byte of a shard of five images."""


@pytest.fixture
def settings(tmp_path: Path) -> Runtime:
    return dataclasses.replace(PARAMS.runtime, cache=str(tmp_path / "cache"), cache_bytes=1 << 20)


@pytest.fixture
def prepared(tmp_path: Path, write_split: Callable[..., None]) -> Callable[..., Path]:
    def make(*, store: str | None = None, shard_bytes: int = SHARD_BYTES) -> Path:
        (tmp_path / "prepared").mkdir()
        (tmp_path / "prepared/dataset.json").write_text(json.dumps(dataclasses.asdict(FACTS)))
        write_split(tmp_path / "prepared/train", IMAGES, shard_bytes=shard_bytes, store=store)
        return tmp_path / "prepared"

    return make


def damage(path: Path, *, offset: int) -> None:
    """Overwrite bytes from this offset with zeros in place; the size stays the same."""
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(len(content) - offset))


@pytest.mark.parametrize("shard_bytes", [SHARD_BYTES, 1 << 30], ids=["three shards", "one shard"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_damaged_shard_beside_its_index_is_not_read(
    prepared: Callable[..., Path], shard_bytes: int, offset: int
) -> None:
    folder = prepared(shard_bytes=shard_bytes)
    damage(folder / "train/shard-00000.npy", offset=offset)
    with pytest.raises(UserError, match=r"shard-00000\.npy is damaged \(its sha256 is .*make it again with `dvc repro"):
        read_split(folder, "train").images[:]


@pytest.mark.parametrize("offset", OFFSETS)
def test_a_shard_that_was_damaged_in_the_cache_is_reported_and_fetched_again(
    prepared: Callable[..., Path],
    settings: Runtime,
    offset: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = prepared(store=f"memory://{uuid.uuid4()}")
    np.testing.assert_array_equal(read_split(folder, "train", settings).images[:], IMAGES)
    cached = tmp_path / "cache" / f"{read_index(folder / 'train').shards[0].sha256}.npy"
    before = cached.read_bytes()
    damage(cached, offset=offset)
    np.testing.assert_array_equal(read_split(folder, "train", settings).images[:], IMAGES)
    assert f"{cached} was damaged and is fetched again from memory://" in capsys.readouterr().err
    assert cached.read_bytes() == before


def test_a_shard_is_hashed_once_however_often_it_is_read(
    prepared: Callable[..., Path], settings: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared(store=f"memory://{uuid.uuid4()}")
    read_split(folder, "train", settings).images[:]  # fetched
    hashed = []
    original = shard_cache.sha256_of
    monkeypatch.setattr(shard_cache, "sha256_of", lambda path: hashed.append(path.stem) or original(path))
    monkeypatch.setattr("ddpm.data.reading.sharded_images.OPEN_SHARDS", 1)
    images = read_split(folder, "train", settings).images
    for row in (0, 5, 10, 0, 5, 10, 0):
        images[row]
    assert sorted(hashed) == sorted(shard.sha256 for shard in read_index(folder / "train").shards)


def new_project(folder: Path, *, cache_type: str, **data: Any) -> Path:
    """Make a real DVC project of twenty images, and run the real stage `prepare` in it."""
    (folder / "raw").mkdir(parents=True)
    for k, noise in enumerate(np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)):
        Image.fromarray(noise).save(folder / "raw" / f"{k}.png")
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {"source": "folder", "path": "raw"} | data
    yaml.dump(params, folder / "params.yaml")
    stage = yaml.load(ROOT / "dvc.yaml")["stages"]["prepare"] | {"deps": ["${data.path}"]}
    yaml.dump({"stages": {"prepare": stage}}, folder / "dvc.yaml")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text(
        f"[core]\n    no_scm = True\n    analytics = false\n[cache]\n    type = {cache_type}\n"
    )
    typed("dvc repro", folder)
    return folder


def typed(command: str, folder: Path) -> str:
    """Run a command in a shell, as a person would type it, and return its stderr."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def command_in(error: UserError) -> str:
    """Return the last command that the error names."""
    return re.findall(r"`([^`]+)`", str(error))[-1]


@pytest.mark.parametrize(
    "cache_type", ["copy", pytest.param("hardlink", marks=SLOW), pytest.param("symlink", marks=SLOW)]
)
def test_the_command_that_the_error_names_repairs_a_shard_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_type: str
) -> None:
    """The damage changes neither size nor time, as a failing disk does, so DVC considers the file unchanged."""
    monkeypatch.chdir(new_project(tmp_path / "a project", cache_type=cache_type))
    folder, path = Path("data/prepared"), Path("data/prepared/train/shard-00000.npy")
    before, status = read_split(folder, "train").images[:].copy(), path.stat()
    path.chmod(0o644)
    damage(path, offset=150)
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError) as error:
        read_split(folder, "train")
    typed(command_in(error.value), Path.cwd())
    np.testing.assert_array_equal(read_split(folder, "train").images, before)


@pytest.mark.parametrize("kind", ["s3", pytest.param("disk", marks=SLOW)])
def test_the_command_that_the_error_names_repairs_a_shard_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str, settings: Runtime, kind: str
) -> None:
    store = f"{s3}/photos" if kind == "s3" else f"file://{tmp_path}/store"
    monkeypatch.setattr(shard_cache, "PAUSES", (0.01, 0.01, 0.01))
    monkeypatch.chdir(new_project(tmp_path / "a project", cache_type="copy", store=store))
    folder = Path("data/prepared")
    sha256 = read_index(folder / "train").shards[0].sha256
    with fsspec.open(f"{store}/{sha256}.npy", "rb") as file:
        content = file.read()
    with fsspec.open(f"{store}/{sha256}.npy", "wb") as file:
        file.write(content[:150] + bytes(len(content) - 150))
    with pytest.raises(UserError, match=r"its sha256 is") as error:
        read_split(folder, "train", settings).images[:]
    printed = typed(command_in(error.value), Path.cwd())
    assert f"{sha256}.npy was damaged and is uploaded again" in printed
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    found = read_split(folder, "train", settings).images[:]
    assert found.tobytes() == content[128:]
    if kind == "disk":
        assert "uploaded again" not in typed(command_in(error.value), Path.cwd()), "what is whole is left as it is"
