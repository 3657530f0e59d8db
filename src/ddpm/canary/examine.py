"""Serve a version as for a consumer, and compare its answers with what was kept when it was registered."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ddpm.canary import fresh_process, kept
from ddpm.canary.fresh_process import FreshProcess
from ddpm.canary.kept import Kept
from ddpm.canary.nearness import nearness
from ddpm.canary.settings import Canary
from ddpm.compute.hardware import choose_device, kind_of_machine
from ddpm.errors import UserError
from ddpm.measuring.features.extractor import describe
from ddpm.promotion.admission import Examined
from ddpm.promotion.registry import Registry, Version

_TOO_MUCH = 429
_PATIENCE = 3.0
"""An answer is awaited for this multiple of its limit, and for 60 seconds at least, so that a slow one is measured."""
_LONGEST_SECONDS = 600.0
"""Time for an answer with many images, on which there is no limit."""
_MOST_INPUTS = 64
"""Number of requests in a call that the served model accepts."""
_FIRST_SEED = 1_000_000
"""Seed of the first images that the extractor compares; the kept pictures and the evaluation have others."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """A `promotion.admission.Canary` with these limits. It leaves no process behind."""

    limits: Canary
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"

    def __call__(self, registry: Registry, version: Version) -> Examined:
        print(f"serving version {version.number} in a process of its own, to look at its answers", flush=True)
        try:
            with tempfile.TemporaryDirectory() as folder:
                file = registry.kept_file(version.number, Path(folder))
                return self._examined(registry.name, version.number, None if file is None else kept.read(file))
        except UserError as error:
            return Examined(failures=(f"canary: {error}",))

    def _examined(self, name: str, number: str, known: Kept | None) -> Examined:
        machine = kind_of_machine(choose_device(self.device))
        threads = None
        if known is not None and "threads" in known.machine and "threads" in machine:
            threads = int(known.machine["threads"])
            machine |= {"threads": threads}
        found = Examined()
        with fresh_process.served(name, number, device=self.device, threads=threads) as process:
            found = _with(found, seconds_to_start=process.wait_until_ready(self.limits.max_start_seconds))
            if known is None:
                found = replace(found, remarks=(_nothing_kept(number),))
                found = self._timed(found, [self._one(process, 0, {})[0]])
            else:
                found = self._with_pictures(found, process, known, same_kind=machine == known.machine)
                found = self._with_distance(found, process, known)
        return self._with_memory(found, process.memory_bytes)

    def _with_pictures(self, found: Examined, process: FreshProcess, known: Kept, *, same_kind: bool) -> Examined:
        """Draw the kept pictures again, each by a request of its own; on another kind of machine, only time them."""
        drawn = [self._one(process, k, known.condition_of(k)) for k in range(len(known.pictures))]
        found = self._timed(found, [seconds for seconds, _ in drawn])
        n = len(drawn)
        if not same_kind:
            there = ", ".join(f"{key} {value}" for key, value in known.machine.items())
            return _remarked(found, f"its {n} kept pictures are of another kind of machine ({there}), so not compared")
        wrong = [k for k, (_, image) in enumerate(drawn) if not torch.equal(image, known.pictures[k])]
        if wrong:
            seeds = ", ".join(map(str, wrong))
            return _failed(
                found,
                f"{len(wrong)} of {n} pictures differ from those that were kept when the version was registered on the "
                f"same kind of machine (seeds {seeds})",
            )
        return _remarked(found, f"{n} of {n} kept pictures were drawn again bit for bit")

    def _with_distance(self, found: Examined, process: FreshProcess, known: Kept) -> Examined:
        n = min(self.limits.images, len(known.features) // 2)
        if n < 2:
            return _remarked(found, f"{len(known.features)} measured images were kept, too few to compare with")
        images = torch.cat(list(_all_drawn(process, list(_inputs(n, known)))))
        device = choose_device(self.device)
        extractor = known.load_extractor(device)
        of = describe(extractor, images.numpy(), device=device, progress=False, what="served")
        if not torch.isfinite(of.features).all():
            return _failed(found, f"the extractor's features of {n} images are not finite")
        near = nearness(of.features, known.features)
        found = _with(found, distance=near.distance, distance_by_chance=near.by_chance)
        said = (
            f"{n} images have the kernel distance {near.distance:.3g} from the measured ones, which among themselves "
            f"have up to {near.by_chance:.3g}"
        )
        limit = self.limits.max_distance * near.by_chance
        if near.distance > limit:
            return _failed(found, f"{said}; expected at most {limit:.3g} (canary.max_distance)")
        return _remarked(found, said)

    def _one(self, process: FreshProcess, seed: int, condition: dict[str, Any]) -> tuple[float, Tensor]:
        """Request one image; return the seconds of the answer and the image, uint8 [C,H,W]."""
        fields = {"number": 1, "seed": seed} | condition
        answer = process.ask([fields], seconds=max(60.0, _PATIENCE * self.limits.max_seconds))
        if answer.status != 200:
            raise UserError(f"a request for one image got the status {answer.status}: {answer.said.get('message')}")
        return answer.seconds, answer.images[0]

    def _timed(self, found: Examined, seconds: list[float]) -> Examined:
        """Judge the median time: the first answer takes longer than all others."""
        median = sorted(seconds)[len(seconds) // 2]
        found = _with(found, seconds_of_one_image=median)
        limit = self.limits.max_seconds
        if median > limit:
            return _failed(
                found, f"an image takes {median:.3g} seconds, expected at most {limit:g} (canary.max_seconds)"
            )
        return _remarked(found, f"an image takes {median:.2g} seconds")

    def _with_memory(self, found: Examined, used: int) -> Examined:
        found, limit = _with(found, memory_bytes=used), self.limits.max_memory_bytes
        said = f"the process used {used / 1e9:.2f} GB of memory"
        if used > limit:
            return _failed(found, f"{said}, expected at most {limit / 1e9:.2f} GB (canary.max_memory_bytes)")
        return _remarked(found, said)


def _inputs(n: int, known: Kept) -> Iterator[dict[str, Any]]:
    """Yield the requests for n images, of all classes about equally often; of many classes, of evenly spaced ones.

    Of a model that knows captions or is given pictures, each image has that of another measured one.
    """
    if known.texts or known.given:
        for k in range(n):
            yield {"number": 1, "seed": _FIRST_SEED + k, **known.condition_of(k)}
        return
    classes = known.classes
    parts = min(n, classes) or 1
    for k in range(parts):
        number = n // parts + (k < n % parts)
        yield {"number": number, "seed": _FIRST_SEED + k} | ({"label": k * classes // parts} if classes else {})


def _all_drawn(process: FreshProcess, inputs: list[dict[str, Any]]) -> Iterator[Tensor]:
    for first in range(0, len(inputs), _MOST_INPUTS):
        yield from _drawn(process, inputs[first : first + _MOST_INPUTS])


def _drawn(process: FreshProcess, inputs: list[dict[str, Any]]) -> Iterator[Tensor]:
    """Yield the images of these requests; a call that is too much work for the server's limits is divided."""
    answer = process.ask(inputs, seconds=_LONGEST_SECONDS)
    if answer.status == 200:
        yield answer.images
    elif answer.status == _TOO_MUCH and (parts := _halves(inputs)):
        for part in parts:
            yield from _drawn(process, part)
    else:
        raise UserError(f"a request for images got the status {answer.status}: {answer.said.get('message')}")


def _halves(inputs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], ...]:
    """Return the requests in two parts; none for a request for one image."""
    if len(inputs) > 1:
        return inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]
    [fields] = inputs
    number = fields["number"]
    if number == 1:
        return ()
    later = fields | {"number": number - number // 2, "seed": fields["seed"] + _FIRST_SEED}
    return [fields | {"number": number // 2}], [later]


def _nothing_kept(number: str) -> str:
    return (
        f"version {number} was registered without pictures and features to compare with, so only its loading, time and "
        "memory were looked at"
    )


def _with(found: Examined, **figures: float) -> Examined:
    return replace(found, figures={**found.figures, **figures})


def _failed(found: Examined, sentence: str) -> Examined:
    return replace(found, failures=(*found.failures, f"canary: {sentence}"))


def _remarked(found: Examined, sentence: str) -> Examined:
    return replace(found, remarks=(*found.remarks, f"canary: {sentence}"))
