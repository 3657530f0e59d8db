"""The model file: whole or refused, the same bytes for the same model, nothing pickled."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from degraded import IMAGE
from safetensors import safe_open
from safetensors.torch import load_file, save_file

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
    estimate = model.estimator()
    assert estimate(x, t, labels).x_0.shape == x.shape
    assert not torch.equal(estimate(x, t, labels).x_0, estimate(x, t, None).x_0)


def test_a_file_that_is_missing_torn_or_foreign_is_refused_in_one_sentence(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(UserError, match="is not a model file"):
        model_file.load(path)
    tiny_model(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        model_file.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="was not written by this project"):
        model_file.load(path)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> Path:
    """The file with its description and weights changed in place by `change`."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()[model_file.FORMAT])
    weights = load_file(path)
    change(described, weights)
    save_file(weights, path, {model_file.FORMAT: json.dumps(described)})
    return path


WIDE_CODEC = {
    "latent_channels": 2,
    "widths": [8, 8],
    "groups": 8,
    "attention": False,
    "quant": False,
    "shift": 0.0,
    "scale": 1.0,
}
WRONG_DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no spec": lambda it: it.pop("spec"),
    "a list for a spec": lambda it: it.update(spec=[1]),
    "no lineage": lambda it: it.update(lineage=None),
    "no network": lambda it: it["spec"].pop("network"),
    "an option that is none": lambda it: it["spec"]["network"].update(color="red"),
    "a word for a number": lambda it: it["spec"]["network"].update(width="wide"),
    "a number for a truth": lambda it: it["spec"]["network"].update(width=True),
    "no channels": lambda it: it["spec"].update(channels=0),
    "a number of classes": lambda it: it["spec"].update(classes=4),
    "blocks without end": lambda it: it["spec"]["network"].update(blocks=10**12),
    "more blocks than tensors": lambda it: it["spec"]["network"].update(blocks=100, multipliers=[1] * 12),
    "a codec of more blocks than tensors": lambda it: it["spec"].update(codec=WIDE_CODEC | {"blocks": 100}),
    "resolutions without end": lambda it: it["spec"]["network"].update(multipliers=[1] * 100_000),
    "a chain of petabytes": lambda it: it["spec"]["schedule"].update(T=10**15),
    "images of petabytes": lambda it: it["spec"].update(size=10**9),
    "a schedule that is none": lambda it: it["spec"]["schedule"].update(name="quintic"),
    "a target that is none": lambda it: it["spec"]["objective"].update(target="score"),
    "an embedding that is none": lambda it: it["spec"]["convention"].update(middle_attention="twice"),
    "heads that are not alike": lambda it: it["spec"]["network"].update(multipliers=[1, 5], head_channels=12),
    "a word for a truth": lambda it: it["spec"].update(unconditional="some"),
    "another norm": lambda it: it["spec"]["convention"].update(norm_eps="small"),
    "a deviation of nothing": lambda it: it["spec"]["objective"].update(sigma_data=0),
    "a guide without weights or words": lambda it: it.update(guide={}),
    "a recipe that is a list": lambda it: it.update(recipe=[1]),
    "a spec without a key": lambda it: it["spec"]["schedule"].pop("shift"),
    "pictures that no square of pixels fits": lambda it: it["spec"].update(classes=[], image=IMAGE | {"factor": 3}),
    "colours of grey pictures": lambda it: it["spec"].update(classes=[], image=IMAGE | {"degradations": ["colourise"]}),
    "a key of training": lambda it: it["spec"]["network"].update(label_dropout=0.1),
    "no label where one is needed": lambda it: it["spec"].update(classes=[], unconditional=False),
    "a width beyond all memory": lambda it: it["spec"]["network"].update(width=8 * 10**30),
    "patches beyond all memory": lambda it: it["spec"]["network"].update(patch=10**9),
    "lists in lists without end": lambda it: it.update(recipe=json.loads("[" * 900 + "]" * 900)),
    "not a number": lambda it: it["spec"]["schedule"].update(T=float("nan")),
}


@pytest.mark.parametrize("name", WRONG_DESCRIPTIONS)
def test_a_header_that_describes_no_model_is_one_sentence(
    name: str, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    path = tmp_path / "m.safetensors"
    tiny_model(path)
    rewritten(path, lambda described, weights: WRONG_DESCRIPTIONS[name](described))
    with pytest.raises(UserError, match="has no valid model in its header") as caught:
        model_file.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda guide: guide["spec"]["network"].update(width=4096), r"for guide\..* the network in its header has"),
        (lambda guide: guide["spec"].update(size=16), "its guide has another size than the model"),
        (lambda guide: guide.update(lineage=None), "guide.lineage is null, expected a mapping"),
        (lambda guide: guide.update(sha256=5), "guide.sha256 is 5, expected text"),
    ],
)
def test_a_guide_is_held_to_its_weights_and_to_the_model(
    change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    path = tmp_path / "m.safetensors"
    sha256 = tiny_model(tmp_path / "guide.safetensors", seed=1)
    guide = model_file.load(tmp_path / "guide.safetensors")
    tiny_model(path, recipe={"sampler": "ddim", "steps": 5, "guidance": 2.0, "guide": sha256}, guide=guide)
    model = model_file.load(path)
    assert model.guide is not None
    assert model.guide.sha256 == sha256
    rewritten(path, lambda described, weights: change(described["guide"]))
    with pytest.raises(UserError, match=said) as caught:
        model_file.load(path)
    assert "\n" not in str(caught.value)


def test_a_guide_that_no_header_speaks_of_is_refused(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    path = tmp_path / "m.safetensors"
    tiny_model(path)
    rewritten(path, lambda described, weights: weights.update({"guide.conv_in.bias": torch.zeros(8)}))
    with pytest.raises(UserError, match=r"for guide\.conv_in\.bias, but the network in its header has nothing"):
        model_file.load(path)


def test_a_header_that_asks_for_more_than_the_file_holds_is_refused_before_memory_is_taken(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    import resource

    path = tmp_path / "m.safetensors"
    tiny_model(path)
    rewritten(path, lambda described, weights: described["spec"]["network"].update(width=4096))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        UserError, match=r"has .*8.* for .*, but the network in its header has \[.*4096.*train or fetch"
    ):
        model_file.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB; the network has 4 GB


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused_by_name(
    value: float, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    path = tmp_path / "m.safetensors"
    tiny_model(path)
    rewritten(path, lambda described, weights: weights["conv_in.bias"].fill_(value))
    with pytest.raises(UserError, match=r"weights in conv_in\.bias that are not finite"):
        model_file.load(path)


@pytest.mark.parametrize("change", ["pop", "more", "integers"])
def test_weights_of_another_network_are_refused_by_name(
    change: str, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    path = tmp_path / "m.safetensors"
    tiny_model(path)

    def changed(described: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        old = weights.pop("conv_in.bias")
        if change == "more":
            weights |= {"conv_in.bias": old, "another": old.clone()}
        if change == "integers":
            weights["conv_in.bias"] = old.to(torch.int64)

    rewritten(path, changed)
    with pytest.raises(UserError, match="nothing" if change != "integers" else "'I64'"):
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
