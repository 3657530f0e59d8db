"""Run a training to its end: curves, pictures, checkpoints, and a clean stop on signals."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NoReturn

from ddpm.compute.hardware import is_out_of_memory
from ddpm.compute.processes import any_of, leads, processes, together
from ddpm.errors import UserError
from ddpm.images import NotFiniteError
from ddpm.tracker import DETAILS, GROUP, Tracker, metrics_of
from ddpm.training.curves import Meter, Row
from ddpm.training.loop import Step, require_finite
from ddpm.training.session import Training

if TYPE_CHECKING:
    from PIL.Image import Image
    from tqdm import tqdm


class Stopped(SystemExit):
    """A signal has ended the training. Its state is saved, and the same command continues it."""


def run_training(
    training: Training,
    *,
    tracker: Tracker,
    log_every_images: int,
    grid_every_images: int,
    picture: Callable[[], "Image | None"],
    measure: Callable[[], Mapping[str, float]] = dict,
) -> list[Row]:
    """Train to the end and return the curves, one row per `log_every_images`.

    `picture` draws samples of the averaged network (None: no picture), and `measure`, which is called after it, returns
    metrics of it for the tracker; both are called every `grid_every_images`, by all processes, and must not touch the
    training's random state. The final state is saved too, so that a failure after the training does not lose it. On
    SIGTERM and SIGINT the current step is finished, the state is saved, and Stopped ends the process.
    Raises UserError when memory runs out; the last checkpoint stays.
    """
    state, total = training.state, training.settings.images
    log = _Log(training, tracker)

    def save(*, wait: bool = False) -> None:
        training.extra["meter"] = log.meter.sums()
        training.save(wait=wait)

    if any(any_of(not state.images_seen, training.extra.get("run_id") != training.saved_run)):
        save()  # so that even a training killed in its first seconds continues in the same run of the tracker
    saved_at = time.monotonic()
    just_saved = False  # then wishes of other processes may be those from before
    with (
        _progress_bar(training) as bar,
        _collected_signals() as signals,
        _out_of_memory_as_sentence(training),
        closing(training),
    ):

        def asked() -> tuple[bool, bool]:
            """Return whether this process wants to stop, and to save."""
            return bool(signals), time.monotonic() - saved_at > training.runtime.checkpoint_seconds

        for step in training.steps(asked):
            log.add(step)
            bar.update(step.images_seen - bar.n)
            if _crossed(step, log_every_images) or step.images_seen >= total:
                row = log.close_interval(step)
                if row["loss"] is not None:
                    bar.set_postfix(loss=f"{row['loss']:.4f}")
            if _crossed(step, grid_every_images) or step.images_seen >= total:
                _send_look(picture, measure, tracker, images_seen=step.images_seen)
            stopping, due = asked() if processes() == 1 else step.asked
            if stopping:
                save(wait=True)
                _stop(training, signals)
            if due and not just_saved:
                save()
                saved_at, just_saved = time.monotonic(), processes() > 1
            else:
                just_saved = False
        training.settle()
        stopping, unsaved = any_of(bool(signals), training.saved_images < state.images_seen)
        if stopping or unsaved:
            save(wait=True)
        if stopping:
            _stop(training, signals)
    return log.curves


class _Log:
    """The current logging interval and the rows of the intervals before it."""

    def __init__(self, training: Training, tracker: Tracker) -> None:
        self.curves: list[Row] = training.extra.setdefault("curves", [])
        self.meter = Meter(training.device, training.extra.get("meter", ()), terms=training.terms)
        self._training, self._tracker = training, tracker
        self._began, self._images_before = time.monotonic(), training.state.images_seen

    def add(self, step: Step) -> None:
        self.meter.add(step)

    def close_interval(self, step: Step) -> Row:
        """Append the interval's row to the curves, send its metrics to the tracker, and start the next interval."""
        require_finite(self._training.state, step, self._training.settings)
        row, now = self.meter.row(step), time.monotonic()
        self.curves.append(row)
        speed = (step.images_seen - self._images_before) / (now - self._began)
        details = {"images_per_second": speed, "nonfinite_steps": float(self._training.state.nonfinite_steps)}
        metrics = metrics_of(row) | {f"{DETAILS}{name}": value for name, value in details.items()}
        self._tracker.log(metrics, images_seen=step.images_seen)
        self.meter = Meter(self._training.device, terms=self._training.terms)
        self._began, self._images_before = now, step.images_seen
        return row


def _send_look(
    picture: Callable[[], "Image | None"],
    measure: Callable[[], Mapping[str, float]],
    tracker: Tracker,
    *,
    images_seen: int,
) -> None:
    """Send the picture and the metrics of samples; if samples are not finite, say so, because the training goes on."""
    try:
        if (image := picture()) is not None:
            tracker.image(f"{GROUP}samples", image, images_seen=images_seen)
        if metrics := measure():
            tracker.log(metrics, images_seen=images_seen)
    except NotFiniteError as error:
        if leads():
            print(f"no picture after {images_seen} images: {error}")


def _progress_bar(training: Training) -> "tqdm[NoReturn]":
    from tqdm import tqdm

    batch = training.settings.batch_size
    return tqdm(
        total=-(-training.settings.images // batch) * batch,
        initial=training.state.images_seen,
        unit=" images",
        desc="training",
        disable=not (training.runtime.progress and leads()),
    )


def _crossed(step: Step, every: int) -> bool:
    """Return whether the step reached or passed a multiple of `every` images."""
    return step.images_seen // every > (step.images_seen - len(step.losses)) // every


def _stop(training: Training, signals: list[signal.Signals]) -> NoReturn:
    together()  # a worker that exits early looks crashed to the launcher
    if leads():
        print(
            f"stopped after {training.state.images_seen} images, of which {training.saved_images} are saved; "
            "the same command continues from there"
        )
    raise Stopped(128 + (signals or [signal.SIGTERM])[0])


@contextmanager
def _collected_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGTERM and SIGINT inside the block instead of ending the process."""
    caught: list[signal.Signals] = []

    def collect(number: int, _: object) -> None:
        caught.append(signal.Signals(number))

    before = {number: signal.signal(number, collect) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _out_of_memory_as_sentence(training: Training) -> Iterator[None]:
    """Turn running out of memory into a UserError. Nothing is saved then: the state is in the middle of a step."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"memory of {training.device} ran out with {training.settings.batch_size} images in a step; lower "
            "runtime.device_batch (images at a time, which changes results only by rounding) and run the same command "
            f"again, which continues after {training.saved_images} images"
        ) from error
