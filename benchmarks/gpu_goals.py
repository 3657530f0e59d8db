"""What a GPU should reach: the target of each measured number, and the value at which the design is wrong.

Needs only Python's own library, because the table is also written where nothing else is installed.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Goal:
    """The goal of one number. Without target and limit it is a yardstick for others."""

    unit: str
    target: float | None = None
    wrong: float | None = None
    """Beyond this value the design is wrong, not only slow."""
    why: str = ""
    """Why these values were chosen, and what is wrong beyond the limit."""

    def verdict(self, value: float) -> str:
        """Return `reached`, `missed`, `wrong`, or nothing for a yardstick."""
        if self.target is None or self.wrong is None:
            return ""
        sign = 1 if self.target > self.wrong else -1
        if sign * value >= sign * self.target:
            return "reached"
        return "wrong" if sign * value < sign * self.wrong else "missed"

    def target_text(self) -> str:
        return self._bound(self.target, at_least=True)

    def wrong_text(self) -> str:
        return self._bound(self.wrong, at_least=False)

    def _bound(self, value: float | None, *, at_least: bool) -> str:
        if value is None or self.target is None or self.wrong is None:
            return ""
        more = (self.target > self.wrong) == at_least
        return (
            f"{'≥' if more and at_least else '≤' if at_least else '<' if not more else '>'} {shown(value, self.unit)}"
        )


def shown(value: float, unit: str) -> str:
    """Return the value with its unit, in three digits or more."""
    if unit == "%":
        return f"{100 * value:.1f} %"
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".strip()


def _training(batch: int, *, share: float, wrong_share: float) -> dict[str, Goal]:
    goals = {
        "images/s": Goal("images/s"),
        "images/s, compiled": Goal("images/s"),
        "compiled over eager": Goal(
            "x", 1.3, 1.0, "fewer passes over memory by norm, SiLU and casts; at 1 it is no use"
        ),
        "share of the matrix peak, compiled": Goal(
            "%",
            share,
            wrong_share,
            "its convolutions have 128 to 256 channels; at the limit something else takes the time",
        ),
        "share of the convolution peak, compiled": Goal("%"),
        "time without work for the GPU": Goal("%", 0.03, 0.15, "the host must be ahead of the GPU"),
        "time without work for the GPU, compiled": Goal("%", 0.03, 0.15, "the same"),
        "over diffusers as its example runs it": Goal("x", 2.0, 1.0, "float32 (TF32), contiguous, eager"),
        "over diffusers with bf16, channels_last, compiled": Goal(
            "x", 1.1, 0.9, "the same network by the same compiler: only the loop differs"
        ),
        "peak memory, compiled": Goal("GB"),
        "its peak memory over that of diffusers' example": Goal("x", 0.6, 1.0, "activations in bf16 take half"),
        "seconds until the first compiled step": Goal("s", 90, 240, "a GPU is rented while it compiles"),
    }
    return {f"batch {batch}: {name}": goal for name, goal in goals.items()}


PARTS: Mapping[str, Mapping[str, Goal]] = {
    "peaks": {
        "matrix product, bf16": Goal("TFLOP/s"),
        "convolution, bf16": Goal("TFLOP/s"),
        "matrix product, bf16 over float32": Goal("x", 4, 2, "without TF32; below the limit tensor cores are unused"),
        "convolution over matrix product, bf16": Goal(
            "x", 0.5, 0.2, "below the limit channels_last selects no fast kernel"
        ),
    },
    "training-128": _training(128, share=0.25, wrong_share=0.10),
    "training-512": _training(512, share=0.35, wrong_share=0.15),
    "sampling": {
        "256 images: images/s": Goal("images/s"),
        "1,024 images: images/s": Goal("images/s"),
        "1,024 images: share of the matrix peak": Goal("%", 0.25, 0.08, "forward only, eager, weights cast once"),
        "256 images over 1,024, images/s": Goal("x", 0.8, 0.4, "256 images already fill the GPU"),
        "one image, 10 evaluations": Goal("s", 0.2, 0.5, "a page waits for it; the limit is that of a served request"),
        "peak memory, 100 steps over 10": Goal("x", 1.05, 1.5, "memory must not grow with the steps"),
    },
    "features": {
        "features": Goal(
            "images/s", 50_000, 10_000, "60,000 images in about a second; at the limit the host is slower"
        ),
        "training the extractor": Goal("s", 30, 120, "60,000 images; 12 s on two CPU cores with 8x8"),
    },
    "checkpoint": {
        "size of a checkpoint": Goal("GB"),
        "training stands still": Goal("s", 0.1, 0.5, "a copy to pinned memory; at the limit it waits for the disk"),
        "until it is on the disk": Goal("s", 5, 20, "at most a part of runtime.checkpoint_seconds (30)"),
    },
    "defaults": {
        "8x8, params.yaml: images/s": Goal("images/s", 6000, 1500, "two CPU cores: 725; the limit is twice that"),
        "8x8, params.yaml: the training": Goal("s", 15, 60, "60,000 images"),
        "32x32, recipes/colour-32.yaml: images/s": Goal("images/s", 2000, 500, "one CPU core: 43"),
        "32x32, recipes/colour-32.yaml: the training": Goal("s", 60, 240, "100,000 images"),
    },
    "cifar10": {
        "minutes of training": Goal("min"),
        "images seen": Goal("images"),
        "floor: FID of as many real images": Goal(""),
        "FID after 10 % of the time": Goal(""),
        "FID after 30 % of the time": Goal(""),
        "FID after 60 % of the time": Goal(""),
        "FID at the end": Goal(""),
        "FID at the end over the floor": Goal("x", 2.0, 4.0, "2.4 after 38 minutes of one CPU core"),
    },
}
"""The goals of every part of gpu.py, in the order in which a session measures them."""


def table(found: Mapping[str, Mapping[str, float | None]], reasons: Mapping[str, str]) -> str:
    """Return all goals as Markdown, with the values that were found.

    `found`: per part the values by name, None where this device has no such number. `reasons`: why a part is not, or
    not wholly, measured.
    """
    lines = ["| number | measured | target | wrong design | | why |", "| --- | ---: | ---: | ---: | --- | --- |"]
    for part, goals in PARTS.items():
        lines.append(f"| **{part}** | {reasons.get(part, '')} | | | | |")
        for name, goal in goals.items():
            value = found.get(part, {}).get(name)
            measured, verdict = ("", "") if value is None else (shown(value, goal.unit), goal.verdict(value))
            cells = (name, measured, goal.target_text(), goal.wrong_text(), verdict, goal.why)
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
