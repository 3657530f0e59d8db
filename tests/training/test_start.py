"""A training that starts from another model: what is taken over, what is new, what is refused, and that it is exact."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_captions
import tiny_training as tiny
import torch

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.model_spec import Spec, build_network
from ddpm.networks.blocks import CrossAttention
from ddpm.training import session
from ddpm.training.start import Parent, Start, take_over

PATTERNS = np.stack([np.full((1, 8, 8), level, dtype=np.uint8) for level in np.linspace(0, 255, 37)])
LABEL = "label.weight"


def spec_with(**changes: Any) -> Spec:
    """The tiny spec with these changes; those of a section by key."""
    sections = {
        key: dataclasses.replace(getattr(tiny.SPEC, key), **value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    return dataclasses.replace(tiny.SPEC, **sections)


def parent_of(spec: Spec, *, sha256: str = "a" * 64) -> Parent:
    torch.manual_seed(1)
    network = build_network(spec)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Parent({"name": "another", "sha256": sha256}, Model(network, spec, lineage={}, sha256=sha256))


def taken_over(spec: Spec, parent: Parent) -> tuple[Start, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The comparison, the weights of a new network of `spec`, and its weights after the start."""
    torch.manual_seed(0)
    network = build_network(spec)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start = take_over(network, spec, parent)
    return start, before, network.state_dict()


def begin(folder: Path, parent: Parent | None, pixels: np.ndarray = tiny.IMAGES, **settings: Any) -> session.Training:
    runtime = dataclasses.replace(tiny.PARAMS.runtime, progress=False, deterministic=True, checkpoint_seconds=1000)
    return session.begin(
        tiny.SPEC,
        pixels,
        tiny.LABELS,
        data_hash="made up",
        code_hash="made up",
        settings=dataclasses.replace(tiny.SETTINGS, **settings),
        runtime=runtime,
        device=torch.device("cpu"),
        precision="float32",
        state_folder=folder,
        parent=parent,
    )


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_first_loss_after_a_start_is_far_below_the_first_loss_from_untrained_weights(tmp_path: Path) -> None:
    trained = begin(tiny.NOWHERE, None, PATTERNS, images=16 * 60, lr=0.01)
    losses = [step.loss for step in trained.steps()]
    file = tmp_path / "model.safetensors"
    sha256 = model_file.save(file, network=trained.average(), spec=tiny.SPEC, lineage={})
    parent = Parent({"name": "another", "sha256": sha256}, model_file.load(file))

    training = begin(tiny.NOWHERE, parent, PATTERNS)
    assert equal(training.state.network, trained.average())
    assert equal(training.state.ema.network, trained.average())
    assert next(training.steps()).loss < 0.25 * losses[0], (losses[0], losses[-1])


def test_the_same_network_is_taken_over_whole_and_its_average_is_not_forgotten() -> None:
    start, _, after = taken_over(tiny.SPEC, parent := parent_of(tiny.SPEC))
    assert (start.taken, start.tensors, start.new, start.left, start.warnings) == (len(after), len(after), (), (), ())
    assert start.is_whole
    assert equal(parent.model.network, begin(tiny.NOWHERE, parent).state.network)  # type: ignore[union-attr]
    averages = [begin(tiny.NOWHERE, each).state.ema for each in (parent, None)]
    network = build_network(tiny.SPEC)
    for average in averages:
        for parameter in average.network.parameters():
            torch.nn.init.ones_(parameter)
    torch.nn.init.zeros_(network.conv_in.weight)
    for average in averages:
        average.update(network, images_seen=16, batch_size=16, skipped=torch.tensor(False))
    kept, forgotten = (float(average.network.conv_in.weight.mean()) for average in averages)
    assert kept == pytest.approx(0.5 ** (16 / 100))  # the half-life of the settings
    assert forgotten < 1e-5


@pytest.mark.parametrize(
    ("changes", "new", "left"),
    [
        ({"network": {"attention": (4, 8)}}, "down.0.attention.norm.weight", None),
        ({"network": {"attention": ()}}, None, "down.2.attention.norm.weight (not in the network here)"),
        ({"network": {"multipliers": (1, 4)}}, None, "middle.0.block.conv1.weight (shape [16, 16, 3, 3] in the file, "),
        ({"channels": 3}, None, "conv_in.weight (shape [8, 1, 3, 3] in the file, [8, 3, 3, 3] here)"),
        ({"objective": {"learned_variance": True}}, None, "conv_out.weight (shape [1, 8, 3, 3] in the file, [2, 8,"),
    ],
    ids=str,
)
def test_what_agrees_in_name_and_shape_is_taken_over_and_all_else_is_new_and_listed(
    changes: dict[str, Any], new: str | None, left: str | None
) -> None:
    spec, parent = spec_with(**changes), parent_of(tiny.SPEC)
    start, before, after = taken_over(spec, parent)
    theirs = parent.model.network.state_dict()  # type: ignore[union-attr]
    agreeing = {name for name in after if name in theirs and theirs[name].shape == after[name].shape}
    assert 0 < len(agreeing) == start.taken < max(len(after), len(theirs))
    for name, tensor in after.items():
        assert torch.equal(tensor, (theirs if name in agreeing else before)[name]), name
    assert set(start.new) == set(after) - set(theirs)
    assert not start.is_whole or not start.new
    first, *_ = start.sentences()
    assert f"taken over {len(agreeing)} of {len(after)} tensors" in first
    for part, title, listed in ((new, "new", start.new), (left, "not taken", start.left)):
        assert bool(listed) == (f"; {title}: " in first)
        assert part is None or any(each.startswith(part) for each in listed)
    assert start.record()["not_taken"] == list(start.left)


def test_classes_are_taken_over_by_their_names_and_the_others_are_new() -> None:
    parent = parent_of(spec_with(classes=("cat", "c", "a")))
    start, _, after = taken_over(spec_with(classes=("a", "b", "c", "d")), parent)
    theirs = parent.model.network.state_dict()[LABEL]  # type: ignore[union-attr]
    assert torch.equal(after[LABEL], theirs[[2, 3, 1, 3, 3]]), "new classes begin as the row without a label"
    assert start.new == tuple(f"{LABEL} of {name} (begins as the row without a label)" for name in ("'b'", "'d'"))
    assert start.left == (f"{LABEL} of 'cat' (no class here)",)
    assert not start.is_whole


def test_a_row_without_a_label_that_was_never_trained_is_warned_about_and_no_class_begins_as_it() -> None:
    parent = parent_of(spec_with(classes=("a", "b"), unconditional=False))
    start, _, after = taken_over(spec_with(classes=("a", "c")), parent)
    theirs = parent.model.network.state_dict()[LABEL]  # type: ignore[union-attr]
    assert torch.equal(after[LABEL], torch.stack([theirs[0], theirs[:2].mean(dim=0), theirs[2]]))
    assert start.new == (f"{LABEL} of 'c' (begins as the mean of the classes there)",)
    assert len(start.warnings) == 1
    assert "for samples without a label was taken over untrained" in start.warnings[0]


def test_a_model_without_classes_becomes_one_with_classes() -> None:
    without = spec_with(classes=())
    start, before, after = taken_over(tiny.SPEC, parent_of(without))
    assert start.new == (LABEL,)
    assert torch.equal(after[LABEL], before[LABEL])


def test_a_network_that_shares_no_weights_is_refused() -> None:
    other = spec_with(network={"width": 16, "head_channels": 16})
    with pytest.raises(UserError, match=r"train\.start is another, whose network shares no weight matrix"):
        taken_over(tiny.SPEC, parent_of(other))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": {"target": "eps"}}, "trained with objective.target eps (here v), so"),
        ({"schedule": {"name": "linear", "T": 500}}, "schedule.name linear (here cosine), schedule.T 500 (here 1000)"),
        ({"network": {"head_channels": 16}}, "network.head_channels 16 (here 8)"),
        ({"network": {"groups": 4}}, "network.groups 4 (here None)"),
        ({"objective": {"weight": "simple", "p2_gamma": 3.0}}, None),
    ],
    ids=str,
)
def test_weights_that_predict_something_else_are_warned_about_in_one_sentence(
    changes: dict[str, Any], says: str | None
) -> None:
    start, _, _ = taken_over(tiny.SPEC, parent_of(spec_with(**changes)))
    assert len(start.warnings) == (says is not None)
    assert says is None or says in start.warnings[0]
    assert start.sentences()[1:] == [f"warning: {sentence}" for sentence in start.warnings]


def test_details_that_the_network_has_from_its_parent_are_said() -> None:
    spec = spec_with(convention={"norm_eps": 1e-6, "frequency_shift": 1})
    start, _, _ = taken_over(spec, parent_of(spec))
    assert start.sentences()[0].endswith("; details as there: norm_eps 1e-06, frequency_shift 1")
    assert start.warnings == ()


def test_without_a_champion_all_weights_are_new(tmp_path: Path) -> None:
    training = begin(tmp_path, Parent({"name": "ddpm has no champion", "sha256": None}, None))
    assert equal(training.state.network, begin(tmp_path, None).state.network)
    assert training.start is not None
    assert training.start.sentences() == [
        "ddpm has no champion, so the training starts from untrained weights, and all are trained"
    ]
    assert training.start.record() == {"name": "ddpm has no champion", "sha256": None}


def test_the_fingerprint_depends_on_the_parents_content(tmp_path: Path) -> None:
    parents = [None, parent_of(tiny.SPEC), parent_of(tiny.SPEC, sha256="b" * 64)]
    fingerprints = [begin(tmp_path, parent).fingerprint for parent in parents]
    assert len(set(fingerprints)) == 3
    renamed = dataclasses.replace(parents[1], identity=parents[1].identity | {"name": "moved"})  # type: ignore[union-attr, type-var]
    assert begin(tmp_path, renamed).fingerprint == fingerprints[1]


def test_a_started_training_that_was_stopped_continues_bit_for_bit(tmp_path: Path) -> None:
    parent = parent_of(spec_with(classes=("a", "d")))
    short = {"images": 16 * 24, "decay_images": 16 * 8}
    whole = begin(tmp_path / "whole", parent, **short)
    tiny.run(whole)
    stopped = begin(tmp_path / "stopped", parent, **short)
    for step in stopped.steps():
        if step.images_seen == 16 * 10:
            break
    stopped.save(wait=True)
    again = begin(tmp_path / "stopped", parent, **short)
    assert again.state.images_seen == 16 * 10
    tiny.run(again)
    assert equal(whole.state.network, again.state.network)
    assert equal(whole.average(), again.average())


def test_the_layer_of_the_augmentation_is_taken_over_only_from_a_parent_of_the_same_transforms() -> None:
    """Other transforms may have equally many numbers, but then the layer's columns mean something else."""
    spec = spec_with(augmentation=3)

    def start_from(transforms: object, *, here: tuple[str, ...] = ("scale", "rotate")) -> Start:
        torch.manual_seed(0)
        parent = parent_of(spec)
        assert parent.model is not None
        parent.model.lineage["params"] = {"train": {"augment": {"transforms": transforms}}}
        return take_over(build_network(spec), spec, parent, transforms=here)

    assert start_from(["rotate", "scale"]).is_whole
    (left,) = start_from(["mirror", "shift"]).left
    assert left == "augmentation.weight (transforms mirror, shift in the file, rotate, scale here)"
    assert "of unknown names in the file" in start_from("scale").left[0]


@pytest.mark.parametrize("unconditional", [True, False])
def test_a_start_without_classes_predicts_what_the_parent_does_without_a_label(unconditional: bool) -> None:
    parent = parent_of(spec_with(unconditional=unconditional))
    assert parent.model is not None
    plain = spec_with(classes=(), unconditional=True)
    network = build_network(plain).eval()
    start = take_over(network, plain, parent)
    assert start.is_whole
    (left,) = start.left
    assert left == "label.weight (no classes here; its row for samples without a label is added to time.2.bias)"
    theirs, x, t = parent.model.network.eval(), torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    if not unconditional:
        with torch.no_grad():
            theirs.label.weight[-1] = theirs.label.weight[:-1].mean(dim=0)
    assert torch.allclose(network(x, t), theirs(x, t), atol=1e-5)


def test_a_start_without_captions_predicts_what_the_parent_does_for_an_empty_text() -> None:
    parent = parent_of(tiny_captions.SPEC)
    assert parent.model is not None
    plain = spec_with(classes=(), unconditional=True)
    network = build_network(plain).eval()
    start = take_over(network, plain, parent)
    said = "the text encoder (no captions here; what it gives for an empty text is added to time.2.bias)"
    assert start.left[0] == said
    theirs, x, t = parent.model.network.eval(), torch.randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])
    for module in theirs.modules():
        if isinstance(module, CrossAttention):  # its layers are not taken over
            torch.nn.init.zeros_(module.attention.proj.weight)
            torch.nn.init.zeros_(module.attention.proj.bias)
    assert torch.allclose(network(x, t), theirs(x, t), atol=1e-5)
