"""One training from where it stands to its end: progress, curves, pictures, checkpoints, a clean stop on signals."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ddpm.config import Runtime, Tracking
from ddpm.tracking import Tracker
from ddpm.training import checkpoint
from ddpm.training.loop import State, Step

if TYPE_CHECKING:
    from PIL.Image import Image

CURVES = ("images_seen", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "gradient_norm", "learning_rate")


@dataclass
class Meter:
    """Means over a logging interval; loss_q1..4 are the quarters of the noise range, least noise first."""

    T: int
    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    counts: list[float] = field(default_factory=lambda: [0.0] * 4)

    def add(self, step: Step) -> None:
        quarter = (step.t - 1) * 4 // self.T
        zeros = torch.zeros(4, dtype=torch.float64, device=step.t.device)
        losses = step.losses.to(torch.float64)
        self.steps += 1
        self.loss += step.loss
        self.norm += step.gradient_norm
        for total, new in (
            (self.sums, zeros.index_add(0, quarter, losses)),
            (self.counts, zeros.index_add(0, quarter, torch.ones_like(losses))),
        ):
            total[:] = [a + b for a, b in zip(total, new.tolist(), strict=True)]

    def row(self, step: Step) -> dict[str, float | None]:
        """The interval as one row of the curves; a quarter that no image fell into is None."""
        quarters = [s / c if c else None for s, c in zip(self.sums, self.counts, strict=True)]
        values = (step.images_seen, self.loss / self.steps, *quarters, self.norm / self.steps, step.learning_rate)
        return dict(zip(CURVES, values, strict=True))


class Stopped(SystemExit):
    """A signal asked for the end; the state is saved and the same command goes on from here."""


def run(
    steps: Iterable[Step],
    state: State,
    *,
    images: int,
    T: int,
    folder: Path,
    fingerprint: str,
    extra: dict[str, Any],
    tracker: Tracker,
    picture: Callable[[], "Image"],
    runtime: Runtime,
    tracking: Tracking,
) -> list[dict[str, float | None]]:
    """Consumes `steps` to their end and returns the curves, one row per `tracking.log_every_images`.

    `extra` is what the last checkpoint carried ({} at the start); `picture` draws samples of the average.
    On SIGTERM and SIGINT the step is finished, the state is saved, and Stopped ends the process.
    """
    from tqdm import tqdm

    curves: list[dict[str, float | None]] = extra.setdefault("curves", [])
    meter = Meter(**extra["meter"]) if "meter" in extra else Meter(T)

    def save() -> None:
        extra["meter"] = vars(meter).copy()
        checkpoint.save(folder, state, fingerprint=fingerprint, extra=extra)

    saved_at = logged_at = time.monotonic()
    logged_images = state.images_seen
    if not state.images_seen:
        save()  # so that even a training killed in its first seconds goes on in the tracker's same run
    bar = tqdm(total=images, initial=state.images_seen, unit="image", desc="training", disable=not runtime.progress)
    with bar, _signals() as stop_asked:
        for step in steps:
            meter.add(step)
            bar.update(step.images_seen - bar.n)
            if _crossed(step.images_seen, tracking.log_every_images, len(step.t)) or step.images_seen >= images:
                row = meter.row(step)
                curves.append(row)
                meter = Meter(T)
                now = time.monotonic()
                speed = (step.images_seen - logged_images) / (now - logged_at)
                logged_at, logged_images = now, step.images_seen
                metrics = {name: value for name, value in row.items() if value is not None and name != "images_seen"}
                metrics |= {"images_per_second": speed, "nonfinite_steps": float(state.nonfinite_steps)}
                tracker.log(metrics, images_seen=step.images_seen)
                bar.set_postfix(loss=f"{row['loss']:.4f}")
            if _crossed(step.images_seen, tracking.grid_every_images, len(step.t)) and step.images_seen < images:
                tracker.image("samples", picture(), images_seen=step.images_seen)
            if stop_asked:
                save()
                print(f"stopped by {stop_asked[0].name} after {step.images_seen} images; the same command goes on here")
                raise Stopped(128 + stop_asked[0])
            if time.monotonic() - saved_at > runtime.checkpoint_seconds:
                save()
                saved_at = time.monotonic()
    return curves


def _crossed(images_seen: int, every: int, batch: int) -> bool:
    """Whether the last batch reached or passed a multiple of `every`."""
    return images_seen // every > (images_seen - batch) // every


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM and SIGINT instead of dying of them."""
    caught: list[signal.Signals] = []
    before = {s: signal.signal(s, lambda number, _: caught.append(signal.Signals(number))) for s in _STOP}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_STOP = (signal.SIGTERM, signal.SIGINT)
