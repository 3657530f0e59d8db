"""The model file: whole or refused, the same bytes for the same model, nothing pickled."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddpm import model_file
from ddpm.errors import UserError


def test_the_same_model_is_the_same_file(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    assert len({tiny_model(tmp_path / f"{k}.safetensors") for k in range(8)}) == 1
    assert tiny_model(tmp_path / "other.safetensors", seed=1) != tiny_model(tmp_path / "0.safetensors")


def test_what_is_loaded_is_what_was_saved(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    sha256 = tiny_model(tmp_path / "m.safetensors")
    model = model_file.load(tmp_path / "m.safetensors")
    assert model.sha256 == sha256
    assert model.schedule.T == 50
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 40])
    labels = torch.tensor([0, 1])
    x_0 = model.denoiser(guidance=2.0)(x, t, labels)
    assert x_0.abs().max() <= 1
    assert not torch.equal(x_0, model.denoiser(guidance=1.0)(x, t, labels))


def test_a_file_that_is_missing_torn_or_foreign_is_refused_in_one_sentence(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match="is no model file"):
        model_file.load(path)
    tiny_model(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="no whole safetensors file"):
        model_file.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="was not written by this project"):
        model_file.load(path)


def test_a_full_disk_is_one_sentence_and_leaves_the_file_of_before(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    import resource

    path = tmp_path / "model.safetensors"
    before = tiny_model(path)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a full disk, a file that may not grow is an OSError
    try:
        with pytest.raises(UserError, match=r"model\.safetensors could not be written .*make space there"):
            tiny_model(path, seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
