"""The largest size at which this machine ends a training in time, by training steps that are measured at a few sizes.

`python -m ddpm.planning.trainable_size` reads a `Question` from its standard input and prints the answer, both as JSON.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ddpm.compute.hardware import choose_device, choose_precision
from ddpm.compute.memory import free_bytes
from ddpm.errors import UserError
from ddpm.planning.measuring import step_cost
from ddpm.planning.plan import duration, size
from ddpm.planning.size_choice import Question
from ddpm.training.settings import Train
from ddpm.training.spec import spec_of

LADDER = (32, 48, 64, 96, 128, 192, 256)
"""The sizes that are tried besides the images' own. A larger one is used only if data.size sets it."""
_SHARE = 0.8
"""Share of the time and of the memory that a training may take: the next measurement may say a little more."""


@dataclass(frozen=True)
class Training:
    """What a training at some size takes."""

    seconds: float
    """Infinite if not even one image fits into memory."""
    bytes: int

    def __str__(self) -> str:
        if math.isinf(self.seconds):
            return "more memory than is free"
        return f"{duration(self.seconds)} and {size(self.bytes)}"


@dataclass(frozen=True)
class Limits:
    """The time and the memory that there are."""

    seconds: float | None
    """None: no limit."""
    bytes: int
    setting: str = "train.max_hours"
    """The setting that limits the time."""

    @classmethod
    def of(cls, train: Train, *, free: int) -> "Limits":
        """Return the limits of a training of train.images images: train.minutes, if that is set, or train.max_hours."""
        if train.minutes is not None:
            return cls(60 * train.minutes, free, "train.minutes")
        return cls(None if train.max_hours is None else 3600 * train.max_hours, free)

    def end_in_time(self, training: Training) -> bool:
        return self.seconds is None or training.seconds <= _SHARE * self.seconds

    def allow(self, training: Training) -> bool:
        return self.end_in_time(training) and not math.isinf(training.seconds) and training.bytes <= _SHARE * self.bytes

    def __str__(self) -> str:
        time = "" if self.seconds is None else f"{duration(self.seconds)} and "
        return f"at most {_SHARE:.0%} of {time}{size(self.bytes)} of free memory"


def choose(own: int, measure: Callable[[int], Training], limits: Limits) -> tuple[int, str]:
    """Return the largest size that the limits allow and one sentence that says why; the smallest if they allow none.

    Candidates are the images' own size, up to the largest of LADDER, and the sizes of LADDER below it. Since a training
    takes more at a larger size, few of them are measured.
    """
    measured: dict[int, Training] = {}

    def allowed(pixels: int) -> bool:
        measured[pixels] = measure(pixels)
        return limits.allow(measured[pixels])

    if own <= LADDER[-1] and allowed(own):
        return own, f"the images keep their own size, {own}x{own}: a training takes {measured[own]} ({limits})"
    smaller = [pixels for pixels in LADDER if pixels < own]
    below, above = -1, len(smaller)  # the limits allow smaller[below], if there is one, and do not allow smaller[above]
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if allowed(smaller[middle]) else (below, middle)
    chosen = smaller[max(below, 0)]
    return chosen, _reason(own, chosen, measured, limits)


def _reason(own: int, chosen: int, measured: dict[int, Training], limits: Limits) -> str:
    beginning = f"the images are {own}x{own} by themselves"
    become = f"they become {chosen}x{chosen}"
    if not limits.allow(measured[chosen]):
        if limits.end_in_time(measured[chosen]) or math.isinf(measured[chosen].seconds):
            change = "lower train.batch_size or network.width, or set runtime.device_batch"
        else:
            change = f"raise {limits.setting}, or lower train.images or network.width"
        return (
            f"{beginning}, but even at {chosen}x{chosen} a training of train.images takes {measured[chosen]}, more "
            f"than allowed ({limits}); {become}: {change}"
        )
    larger = own if own in measured else min((pixels for pixels in measured if pixels > chosen), default=None)
    too_large = "" if larger is None else f"; at {larger}x{larger} a training would take {measured[larger]}"
    return (
        f"{beginning}{too_large}; at {chosen}x{chosen} it takes {measured[chosen]} ({limits}), so {become}; set "
        "data.size to choose yourself"
    )


def answer(question: Question) -> tuple[int, str]:
    """Return the size and the reason, see `choose`. Raises UserError if a step cannot be measured."""
    settings, train, runtime = question.settings, question.settings.train, question.settings.runtime
    device = choose_device(runtime.device)

    def measure(pixels: int) -> Training:
        spec = spec_of(
            channels=question.channels,
            size=pixels,
            classes=(),
            method=settings.method,
            schedule=settings.schedule,
            objective=settings.objective,
            network=settings.network,
            vae=settings.vae,
            gan=settings.gan,
            condition="text" if settings.condition == "text" else "none",
            text=settings.text,
            train=train,
        )
        cost = step_cost(spec, train, runtime, device, choose_precision(runtime.precision, device, pixels))
        return Training(math.ceil(train.images / train.batch_size) * cost.seconds, cost.bytes)

    return choose(question.own_size, measure, Limits.of(train, free=free_bytes(device)))


def main() -> None:
    from pydantic import TypeAdapter

    chosen, reason = answer(TypeAdapter(Question).validate_json(sys.stdin.read(), strict=True))
    print(json.dumps({"size": chosen, "reason": reason}))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
