"""The plan of a training, as lines for people, and the reasons not to begin it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ddpm.compute.settings import Runtime
from ddpm.diffusion.processes import make_process
from ddpm.measuring.bits_per_dim import ODE_STEPS, STEPS
from ddpm.measuring.memorization import compared_numbers
from ddpm.measuring.settings import Evaluate
from ddpm.model_spec import Spec
from ddpm.planning.alternatives import Alternative
from ddpm.planning.measuring import Measured
from ddpm.sampling.drawing import evaluations
from ddpm.sampling.settings import Sample
from ddpm.training.settings import Train

_WITH_GRADIENT = 3
"""Cost of a network evaluation with its gradient, as a multiple of one without."""


class Comparing(Protocol):
    """What a plan reads of section promote, whose room is above this one."""

    @property
    def compares(self) -> bool:
        """Whether any rule compares the model with the champion."""

    def looks(self, first: int) -> tuple[int, ...]:
        """Return the numbers of images of each model after which the gate looks, beginning with `first`."""


class Sections(Protocol):
    """The sections of params.yaml that a plan reads."""

    @property
    def train(self) -> Train: ...
    @property
    def sample(self) -> Sample: ...
    @property
    def evaluate(self) -> Evaluate: ...
    @property
    def promote(self) -> Comparing: ...
    @property
    def runtime(self) -> Runtime: ...


@dataclass(frozen=True)
class Pictures:
    """Number of training and held-out pictures."""

    train: int
    test: int


@dataclass(frozen=True)
class GateCost:
    """The most that the gate may draw for a comparison with the champion."""

    images: int
    """Of each model, those of the evaluation included."""
    seconds: float
    """Time to draw them, but for those of the evaluation."""


@dataclass(frozen=True)
class Plan:
    """What a training takes, from measured costs."""

    spec: Spec
    pictures: Pictures | None
    """None if nothing is prepared."""
    settings: Train
    """With the planned length if train.minutes is set."""
    cost: Measured
    free_bytes: int
    """Memory that was free on the device, or on this machine."""
    device_images: int
    """Images on a device at a time."""
    alternatives: Sequence[Alternative]
    """Settings that would shorten the training, best first."""
    sampling_seconds: float | None
    """Time of stage sample; None if it was not measured or nothing is prepared."""
    evaluation_seconds: float | None
    gate: "GateCost | None" = None
    """None if it was not measured, nothing is prepared, or no rule compares with the champion."""
    images_seen: int = 0
    """Images that a training that continues has seen."""
    minutes: float | None = None
    """train.minutes, if the length was planned for it."""
    busy: str | None = None
    """One sentence, if other programs kept the processor busy while the steps were measured."""

    @property
    def steps(self) -> int:
        """Number of steps that are left."""
        return max(0, math.ceil((self.settings.images - self.images_seen) / self.settings.batch_size))

    @property
    def seconds(self) -> float:
        """Time of the steps that are left."""
        return self.steps * self.cost.seconds if self.steps else 0.0

    def lines(self) -> list[str]:
        """Return the plan in a few lines."""
        spec, cost, batch = self.spec, self.cost, self.settings.batch_size
        pictures = "nothing is prepared: an estimate for pictures"
        if self.pictures is not None:
            pictures = f"{self.pictures.train:,} training pictures"
        colour = "grey" if spec.channels == 1 else "in colour"
        parameters = f"{cost.parameters:,} parameters"
        if self.settings.lora.rank:
            parameters += f", {cost.trained:,} to train in adapters"
        latents = "" if spec.codec is None else f", as latents of {spec.noise_size}x{spec.noise_size}"
        lines = [f"plan: {pictures} of {spec.size}x{spec.size}, {colour}{latents}; network of {parameters}"]
        if math.isinf(cost.seconds):
            return [
                *lines,
                f"plan: not even one picture at a time fits into the {size(self.free_bytes)} of free memory",
            ]
        planned = "" if self.minutes is None else f", planned for train.minutes ({self.minutes:g})"
        rest = f" after {self.images_seen:,} images" if self.images_seen else ""
        lines += [
            f"plan: training{rest}: {duration(self.seconds)}, {self.steps:,} steps of {batch} images at "
            f"{duration(cost.seconds)} each, measured over a few real steps{planned}",
            f"plan: memory with {self.device_images} images at a time: {size(cost.bytes)}; "
            f"{size(self.free_bytes)} is free",
        ]
        if self.busy is not None:
            lines.append(f"plan: {self.busy}")
        if self.sampling_seconds is not None and self.evaluation_seconds is not None:
            lines.append(
                f"plan: then sampling: {duration(self.sampling_seconds)}, comparing the images with the training "
                f"images: {duration(self.evaluation_seconds)}"
            )
        if self.gate is not None:
            lines.append(
                "plan: then the gate draws images of the champion, if there is one, and of both models while it is "
                f"undecided: at most {self.gate.images:,} of each (promote.max_images), "
                f"{duration(self.gate.seconds)} if the champion draws as fast"
            )
        encoding = (
            ""
            if spec.codec is None
            else "stages autoencoder and encode, which train the autoencoder and write the latents; "
        )
        lines.append(
            f"plan: not included: stage features, which trains the feature extractor; {encoding}the pictures and files "
            "at the end of the training; some seconds for the start of each stage"
        )
        if self.alternatives and self.steps:
            best, *others = self.alternatives
            also = f"; also {', '.join(map(str, others))}" if others else ""
            what = "training's time" if self.minutes is None else "time of a step"
            lines.append(f"plan: the {what} would change most with {best}{also}")
        return lines

    def refusal(self) -> str | None:
        """Return one sentence that says why the training is not begun and which settings to change; None if it may."""
        reasons = [reason for reason in (self._memory_refusal(), self._time_refusal()) if reason is not None]
        return "; and ".join(reasons) if reasons else None

    def _memory_refusal(self) -> str | None:
        if self.cost.bytes <= self.free_bytes:
            return None
        others = "lower data.size, network.width or train.batch_size, or raise network.patch"
        fitting = self.cost.images_that_fit
        if fitting >= 1:
            others = f"set runtime.device_batch to {fitting} (changes results only by rounding), or {others}"
        needed = (
            f"{size(self.cost.bytes)} of memory" if fitting else "more memory than there is for one image at a time"
        )
        return (
            f"this training needs {needed} with {self.device_images} images at a time, but {size(self.free_bytes)} is "
            f"free; {others}"
        )

    def _time_refusal(self) -> str | None:
        most = self.settings.max_hours
        if self.minutes is not None:  # which max_hours allows; a new measurement differs by noise
            return None
        if most is None or self.seconds <= 3600 * most or math.isinf(self.seconds):
            return None
        images = self.settings.batch_size * int(3600 * most / self.cost.seconds)
        shorter = [str(one) for one in self.alternatives if one.setting != "train.images"]
        if images:
            shorter.append(f"train.images {images}")
        each = duration(self.cost.seconds)
        return (
            f"this training would take {duration(self.seconds)} ({self.steps:,} steps of {each}, measured on this "
            f"machine), but train.max_hours is {most:g}; raise it, set train.minutes, or shorten the "
            f"training by {' or '.join(shorter) or 'a smaller data.size or network.width'}"
            + (f"; {self.busy}" if self.busy else "")
        )


def sampling_seconds(
    spec: Spec, pictures: Pictures, sample: Sample, *, forward_seconds: float | None, processes: int
) -> float | None:
    """Return the time of stage sample, by the measured time of a network evaluation for one image."""
    if forward_seconds is None:
        return None
    return generated(pictures, sample) * _evaluations(spec, sample) * forward_seconds / processes


def gate_cost(
    spec: Spec, pictures: Pictures, sample: Sample, promote: Comparing, *, forward_seconds: float | None
) -> GateCost | None:
    """Return what the gate draws at most, in one process; None if no rule compares or the time was not measured."""
    if forward_seconds is None or not promote.compares:
        return None
    drawn = generated(pictures, sample)
    most = promote.looks(drawn)[-1]
    return GateCost(most, (2 * most - drawn) * _evaluations(spec, sample) * forward_seconds)


def evaluation_seconds(
    spec: Spec, pictures: Pictures, sample: Sample, evaluate: Evaluate, *, cost: Measured, processes: int
) -> float | None:
    """Return about the time of stage evaluate: the search for copies and, if it is on, the likelihood.

    The search compares all generated images, and at most evaluate.held_out_images others, with all training images, by
    matrix products whose speed was measured; the processes share it. The rest of the stage is quick. The likelihood
    takes one network evaluation for each step of the process, and two with gradients for each step of the ODE; that of
    a VAE takes about two of its decoder.
    """
    if cost.forward_seconds is None or not cost.flops_per_second:
        return None
    pairs = (generated(pictures, sample) + min(pictures.test, evaluate.held_out_images)) * pictures.train
    each = 2 * compared_numbers((spec.channels, spec.size, spec.size)) / cost.flops_per_second
    steps = spec.schedule.T if spec.schedule.time == "discrete" else STEPS
    asked = steps + 2 * _WITH_GRADIENT * ODE_STEPS if spec.method == "diffusion" else 2
    return pairs * each / processes + min(evaluate.bits_per_dim, pictures.test) * asked * cost.forward_seconds


def _evaluations(spec: Spec, sample: Sample) -> int:
    """Return the network evaluations of one image."""
    return evaluations(sample, make_process(spec.schedule)) if spec.method == "diffusion" else 1


def generated(pictures: Pictures, sample: Sample) -> int:
    """Return the number of images that stage sample generates."""
    return min(pictures.train, 10_000) if sample.images == "auto" else sample.images


def duration(seconds: float) -> str:
    """Return a time for people: 0.25 s, 12 s, 3.5 minutes, 2.1 hours."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.2g} minutes"
    return f"{seconds / 3600:.2g} hours" if seconds < 100 * 3600 else f"{seconds / 3600:,.0f} hours"


def size(number: float) -> str:
    """Return a number of bytes for people: 850 MB, 2.1 GB."""
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"
