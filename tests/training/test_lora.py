"""Low-rank adapters: what a training with them moves, what its model file has, and that it is exact."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import test_start
import tiny_training as tiny
import torch
from test_start import LABEL, equal, parent_of, spec_with

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.model_spec import build_network
from ddpm.training import session
from ddpm.training.lora import adapt
from ddpm.training.settings import Lora
from ddpm.training.start import Parent

RANK = 2
PARENT = parent_of(spec_with(classes=("a", "b", "cat")))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every connection to another machine fail."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a training connected to another machine")

    monkeypatch.setattr("socket.socket.connect", refuse)


def begin(folder: Path, parent: Parent = PARENT, **settings: Any) -> session.Training:
    settings = {"start": "another", "lora": Lora(rank=RANK, alpha=4.0), "images": 16 * 12, "lr": 0.01} | settings
    return test_start.begin(folder, parent, warmup_images=0, decay_images=0, **settings)


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_what_was_taken_over_changes_by_a_low_rank_and_what_is_new_is_trained(tmp_path: Path) -> None:
    training = begin(tiny.NOWHERE)
    assert PARENT.model is not None
    theirs, first = PARENT.model.network.state_dict(), weights_of(training.average())
    assert all(torch.equal(first[name], theirs[name]) for name in first if name != LABEL)
    assert (training.parameters, training.trained) == (sum(map(torch.numel, first.values())), 8_612)
    for step in training.steps():
        assert not step.skipped
    for name, tensor in training.state.network.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        assert plain not in theirs or plain == LABEL or torch.equal(tensor, theirs[plain]), f"{name} was frozen"

    last = training.average().state_dict()
    assert last.keys() == theirs.keys()
    for name, tensor in last.items():
        change = (tensor - first[name]).double()
        if name == LABEL:
            assert change[2].abs().max() > 1e-3, "the row of the new class"
        elif tensor.ndim > 1:
            assert 1 <= torch.linalg.matrix_rank(change.flatten(1), rtol=1e-3) <= RANK, name
        else:
            assert torch.equal(tensor, theirs[name]), name

    x, t, labels = torch.randn(3, 1, 8, 8), torch.tensor([3.0, 40.0, 700.0]), torch.tensor([0, 2, 3])
    with torch.no_grad():
        adapted, plain = (network(x, t, labels) for network in (training.state.ema.network, training.average()))
    assert torch.allclose(adapted, plain, atol=1e-5)

    file = tmp_path / "model.safetensors"
    model_file.save(file, network=training.average(), spec=tiny.SPEC, lineage={})
    without = "import sys; sys.modules['peft'] = sys.modules['transformers'] = None\nfrom ddpm import model_file\n"
    read = f"network = model_file.load({str(file)!r}).network\nprint(sum(p.numel() for p in network.parameters()))"
    done = subprocess.run([sys.executable, "-c", without + read], capture_output=True, text=True)
    assert done.stdout.strip() == str(training.parameters), done.stderr


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_with_adapters_that_was_stopped_continues_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    whole = begin(tmp_path / "whole", optimizer=optimizer)
    tiny.run(whole)
    stopped = begin(tmp_path / "stopped", optimizer=optimizer)
    for step in stopped.steps():
        if step.images_seen == 16 * 5:
            break
    stopped.save(wait=True)
    again = begin(tmp_path / "stopped", optimizer=optimizer)
    assert again.state.images_seen == 16 * 5
    tiny.run(again)
    assert equal(whole.state.network, again.state.network)
    assert equal(whole.average(), again.average())
    assert len(whole.state.optimizer.state) < len(list(whole.state.network.parameters()))


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        ({"classes": ("a", "b", "cat")}, set()),
        ({"channels": 3, "classes": ("cat", "b", "a")}, {"conv_in", "conv_out"}),
        ({"classes": ("a", "cat"), "augmentation": 3}, {"augmentation"}),
        ({"classes": ("a", "dog")}, {"label"}),
    ],
    ids=["the same classes", "other channels", "augmentation", "another class"],
)
def test_layers_that_were_not_taken_over_completely_are_trained_in_full(
    changes: dict[str, Any], layers: set[str]
) -> None:
    spec = spec_with(**changes)
    network = build_network(spec)
    adapt(network, test_start.take_over(network, spec, PARENT).whole, Lora(rank=RANK, alpha=4.0))
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained if ".lora_" not in name} == layers
    assert not any(f"{layer}.lora_A.default.weight" in trained for layer in layers)
    assert {"time.0.lora_A.default.weight", "down.0.block.conv1.lora_B.default.weight"} <= trained


def test_without_a_champion_all_weights_are_trained_and_nothing_is_adapted() -> None:
    training = begin(tiny.NOWHERE, Parent({"name": "ddpm has no champion", "sha256": None}, None))
    assert training.trained == training.parameters
    assert equal(training.average(), training.state.ema.network)


def test_adapters_without_a_model_to_start_from_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^lora\.rank is 4, but start is null, so .* or lora\.rank to 0$"):
        dataclasses.replace(tiny.SETTINGS, start=None, lora=Lora(rank=4, alpha=4.0))


def test_without_peft_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r'needs peft, which is not installed here; run `pip install "ddpm-factory\[lo'):
        begin(tiny.NOWHERE)
