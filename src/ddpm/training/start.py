"""What a training takes over from another model, its parent: tensors of the same name and shape, classes by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.model_spec import Spec
from ddpm.networks.blocks import Text
from ddpm.networks.settings import CONVENTION
from ddpm.networks.unet import AUGMENTATION, BIAS, LABELS
from ddpm.unread_settings import value_of

_SHOWN = 8
"""Tensors of a kind that a printed line names; the model file has all of them."""


@dataclass(frozen=True)
class Parent:
    """The model that a training starts from."""

    identity: dict[str, Any]
    """Plain values: `name`, the `sha256` of the file (None without a model), and what is known of the model's origin.
    The fingerprint of the training contains the sha256."""
    model: Model | None
    """A model file has only averaged weights. None: there was no champion, so all weights are new."""


@dataclass(frozen=True)
class Start:
    """The comparison of a network with its parent."""

    identity: dict[str, Any]
    """That of the parent."""
    tensors: int
    """Number of tensors of the network."""
    taken: int
    """Number of them that are the parent's, completely or for some of the classes."""
    new: tuple[str, ...]
    """Tensors and classes that the parent does not have, each in words. A new tensor is initialised as without a
    parent, a new class as `take_over` says."""
    left: tuple[str, ...]
    """Tensors and classes of the parent that were not taken over, as words with the reason."""
    details: tuple[str, ...]
    """Details of the network (`Convention`) that are the parent's and not those of other networks here, as words."""
    warnings: tuple[str, ...]
    whole: frozenset[str] = frozenset()
    """Names of the tensors that were copied from the parent completely."""

    @property
    def is_whole(self) -> bool:
        """Return whether no weight is new."""
        return self.taken == self.tensors and not self.new

    def record(self) -> dict[str, Any]:
        """Return plain values for the model file and the report."""
        if self.identity["sha256"] is None:
            return self.identity
        taken = {"tensors": self.tensors, "taken_over": self.taken, "new": list(self.new), "not_taken": list(self.left)}
        return self.identity | taken

    def sentences(self) -> list[str]:
        """Return the lines to print: what was taken over, what is new, what was not taken, and the warnings."""
        if self.identity["sha256"] is None:
            return [f"{self.identity['name']}, so the training starts from untrained weights, and all are trained"]
        parts = [
            f"starting from {self.identity['name']}: taken over {self.taken} of {self.tensors} tensors, "
            "into the network and into its average"
        ]
        lists = (("details as there", self.details), ("new", self.new), ("not taken", self.left))
        parts += [f"{title}: {_listed(names)}" for title, names in lists if names]
        return ["; ".join(parts), *(f"warning: {sentence}" for sentence in self.warnings)]


def take_over(network: nn.Module, spec: Spec, parent: Parent, *, transforms: Sequence[str] = ()) -> Start:
    """Copy the parent's tensors into the network of `spec`, where name and shape agree; return the comparison.

    The rows of the class embedding are taken over by the names of the classes, and that of samples without a label. A
    class that the parent does not have begins as the latter, or as the mean of the parent's classes if the parent was
    trained without label dropout: nearer to a trained row than a random one.
    The layer of the augmentation is taken over only if the parent was trained with the same `transforms`, because its
    columns mean these. All other weights of the network stay. Raises UserError if no weight matrix or convolution
    agrees.
    """
    own = network.state_dict()
    if parent.model is None:
        return Start(parent.identity, len(own), 0, (), (), (), ())
    if parent.model.spec.method != spec.method:
        raise UserError(
            f"train.start is {parent.identity['name']}, a model of method {parent.model.spec.method}, which shares no "
            f"weights with method {spec.method}; choose a model of this method, or set train.start to null"
        )
    theirs = parent.model.network.state_dict()
    taken: dict[str, Tensor] = {}
    new, left = [], []
    new_classes: list[str] = []
    for name, tensor in own.items():
        there = theirs.get(name)
        if there is None:
            new.append(name)
        elif name == LABELS and there.shape[1:] == tensor.shape[1:]:
            taken[name], new_classes, left_classes = _by_class(tensor, spec.classes, there, parent.model)
            begins = "the row without a label" if parent.model.spec.unconditional else "the mean of the classes there"
            new += [f"{name} of {each} (begins as {begins})" for each in new_classes]
            left += [f"{name} of {each} (no class here)" for each in left_classes]
        elif name == AUGMENTATION and (others := _transforms(parent.model)) != set(transforms):
            left.append(f"{name} (transforms {_named(others)} in the file, {_named(set(transforms))} here)")
        elif there.shape != tensor.shape:
            left.append(f"{name} (shape {list(there.shape)} in the file, {list(tensor.shape)} here)")
        else:
            taken[name] = there
    if LABELS in theirs and LABELS not in own and BIAS in taken:
        taken[BIAS] = taken[BIAS] + _without_label(parent.model, theirs[LABELS])
        left.append(f"{LABELS} (no classes here; its row for samples without a label is added to {BIAS})")
    if parent.model.spec.text is not None and spec.text is None and BIAS in taken:
        taken[BIAS] = taken[BIAS] + _of_empty_text(parent.model)
        left.append(f"the text encoder (no captions here; what it gives for an empty text is added to {BIAS})")
    left += [f"{name} (not in the network here)" for name in theirs if name not in own and name != LABELS]
    if not any(tensor.ndim > 1 for name, tensor in taken.items() if name != LABELS):
        raise UserError(
            f"train.start is {parent.identity['name']}, whose network shares no weight matrix and no convolution with "
            "the network here; choose `network` as in that model, or set train.start to null"
        )
    network.load_state_dict(own | taken)
    usual = vars(CONVENTION)
    details = tuple(f"{key} {value}" for key, value in vars(spec.convention).items() if value != usual[key])
    warnings = _warnings(network, spec, parent.model)
    if LABELS in taken and spec.unconditional and not parent.model.spec.unconditional:
        warnings = (
            f"the parent was trained without label dropout, so the row of {LABELS} for samples without a label was "
            "taken over untrained, and only this training trains it",
            *warnings,
        )
    whole = taken.keys() - ({LABELS} if new_classes else set())
    return Start(parent.identity, len(own), len(taken), tuple(new), tuple(left), details, warnings, frozenset(whole))


def _without_label(model: Model, rows: Tensor) -> Tensor:
    """Return the row of a class embedding for samples without a label.

    If that row was not trained, because the model has no unconditional prediction, return the mean of the rows of the
    classes.
    """
    return rows[-1] if model.spec.unconditional else rows[:-1].mean(dim=0)


@torch.no_grad()
def _of_empty_text(model: Model) -> Tensor:
    """Return what the text encoder adds to the embedding of a sample without a caption."""
    read = model.read_condition(None, 1)
    assert isinstance(read, Text)
    return read.emb[0]


def _transforms(model: Model) -> set[str]:
    """Return the transformations that the model was trained with, as its file names them; none if it does not."""
    value: Any = model.lineage
    for key in ("params", "train", "augment", "transforms"):
        value = value.get(key) if isinstance(value, dict) else None
    return {str(name) for name in value} if isinstance(value, (list, tuple)) else set()


def _named(transforms: set[str]) -> str:
    return ", ".join(sorted(transforms)) or "of unknown names"


def _by_class(
    own: Tensor, classes: tuple[str, ...], theirs: Tensor, parent: Model
) -> tuple[Tensor, list[str], list[str]]:
    """Return the class embedding with the parent's rows, the classes that are new, and those that were not taken.

    The last row of both, that of samples without a label, is always taken over; new classes begin as `_without_label`.
    """
    taken, rows = own.clone(), {name: row for row, name in enumerate(parent.spec.classes)}
    taken[:-1], taken[-1] = _without_label(parent, theirs), theirs[-1]
    for row, name in enumerate(classes):
        if name in rows:
            taken[row] = theirs[rows[name]]
    here = set(classes)
    new = [repr(name) for name in classes if name not in rows]
    return taken, new, [repr(name) for name in parent.spec.classes if name not in here]


def _warnings(network: nn.Module, spec: Spec, parent: Model) -> tuple[str, ...]:
    """Return a sentence if the parent's weights mean something else than the training asks for."""
    keys = ["schedule.name", "schedule.time", "schedule.shift", "schedule.zero_terminal_snr"]
    keys += ["objective.target", "objective.learned_variance", "objective.bounded"]
    if spec.schedule.name == parent.spec.schedule.name == "variance_exploding":
        keys += ["schedule.sigma_min", "schedule.sigma_max"]
    else:
        keys += ["schedule.T"]
    if spec.objective.target == parent.spec.objective.target == "edm":
        keys += ["objective.sigma_data"]
    for key, attribute in (("network.head_channels", "heads"), ("network.groups", "num_groups")):
        ours, theirs = _divisions(network, attribute), _divisions(parent.network, attribute)
        if any(ours[name] != theirs[name] for name in ours.keys() & theirs.keys()):
            keys.append(key)
    values = [(key, value_of(spec, key), value_of(parent.spec, key)) for key in keys]
    differing = [f"{key} {theirs} (here {ours})" for key, ours, theirs in values if ours != theirs]
    differing += (
        ["latents of another autoencoder, or pixels instead of latents"] if spec.codec != parent.spec.codec else []
    )
    if not differing:
        return ()
    return (
        f"the parent was trained with {', '.join(differing)}, so its weights predict something else until this "
        "training has changed them",
    )


def _divisions(network: nn.Module, attribute: str) -> dict[str, int]:
    """Return into how many heads or groups each module divides its channels, by name."""
    return {name: getattr(module, attribute) for name, module in network.named_modules() if hasattr(module, attribute)}


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more (the model file lists all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
