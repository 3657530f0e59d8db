"""One training from where it stands to its end: progress, curves, pictures, checkpoints, a clean stop on signals."""

import csv
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from torch import nn

from ddpm.compute.hardware import Precision, is_out_of_memory
from ddpm.compute.processes import any_of, leads, restarted, together
from ddpm.compute.settings import Runtime
from ddpm.diffusion.settings import Objective
from ddpm.errors import UserError
from ddpm.images import Images
from ddpm.model_file import build_network, objective_of, process_of
from ddpm.seeding import seed_of
from ddpm.settings import as_dict
from ddpm.tracker import Tracker
from ddpm.training import checkpoint, finished
from ddpm.training.batches import Batches
from ddpm.training.loop import State, Step, new_state, train
from ddpm.training.settings import Train
from ddpm.training.sharding import is_sharded, require_same, whole
from ddpm.training.times import make_times

if TYPE_CHECKING:
    from PIL.Image import Image

CURVES = ("images_seen", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "gradient_norm", "learning_rate")


class Stopped(SystemExit):
    """A signal asked for the end; the state is saved and the same command goes on from here."""


@dataclass
class Meter:
    """Means over the steps of a logging interval that were not skipped, so that all of them are finite.

    loss_q1..4 are the quarters of the noise range, least noise first.
    """

    steps: int = 0
    loss: float = 0.0
    norm: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    counts: list[float] = field(default_factory=lambda: [0.0] * 4)

    def add(self, step: Step) -> None:
        if step.skipped:
            return
        sums = torch.zeros(2, 4, device=step.t.device)
        sums[0].index_add_(0, step.quarter, step.weights * step.losses)
        sums[1].index_add_(0, step.quarter, step.weights)
        losses, counts = sums.tolist()
        self.steps += 1
        self.loss += step.loss
        self.norm += step.gradient_norm
        self.sums = [a + b for a, b in zip(self.sums, losses, strict=True)]
        self.counts = [a + b for a, b in zip(self.counts, counts, strict=True)]

    def row(self, step: Step) -> dict[str, float | None]:
        """The interval as one row of the curves; None where there is nothing to take the mean of."""
        quarters = [_mean(s, c) for s, c in zip(self.sums, self.counts, strict=True)]
        loss, norm = _mean(self.loss, self.steps), _mean(self.norm, self.steps)
        return dict(zip(CURVES, (step.images_seen, loss, *quarters, norm, step.learning_rate), strict=True))


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


@dataclass
class Training:
    """A training, new or restored, ready to go on."""

    state: State
    batches: Batches
    spec: dict[str, Any]
    """See model_file."""
    objective: Objective
    settings: Train
    runtime: Runtime
    device: torch.device
    precision: Precision
    folder: Path
    fingerprint: str
    """Of parameters, data and code: trainings with the same one make the same model on the same kind of machine."""
    code_hash: str
    extra: dict[str, Any]
    """Travels with every checkpoint: curves so far, the interval's means so far, the tracker's run."""
    saved_images: int = 0
    """Images seen at the last checkpoint; a training that is killed goes on from there."""
    saved_run: str | None = None
    """The tracker's run at the last checkpoint."""

    @property
    def parameters(self) -> int:
        """Trainable numbers of the network."""
        return sum(p.numel() for p in self.state.network.parameters())

    def steps(self) -> Iterator[Step]:
        process = process_of(self.spec)
        return train(
            self.state,
            self.batches,
            process=process,
            times=make_times(process, self.objective, memory=self.state.times),
            objective=objective_of(self.spec),
            settings=self.settings,
            label_dropout=self.spec["network"]["label_dropout"],
            device=self.device,
            precision=self.precision,
            device_batch=self.runtime.device_batch,
        )

    def average(self) -> nn.Module:
        """The average so far, a whole network; a sharded one is gathered, so every process must ask."""
        if not is_sharded(self.state.ema.network):
            return self.state.ema.network
        weights = {name: whole(tensor).cpu() for name, tensor in self.state.ema.network.state_dict().items()}
        network = build_network(self.spec)
        network.load_state_dict(weights)
        return network.to(self.device).eval()

    def save(self) -> None:
        """Writes a checkpoint. A training that runs goes on while the disk is full: there may be space the next time.

        Raises UserError where not even the first can be written: that training would run unprotected.
        """
        try:
            checkpoint.save(self.folder, self.state, fingerprint=self.fingerprint, extra=self.extra)
        except checkpoint.NotWrittenError as error:
            if not self.state.images_seen:
                raise UserError(f"{error}, so no state can be saved; make space there and start again") from None
            print(f"{error}; the training goes on, but saved are only its first {self.saved_images} images")
        else:
            self.saved_images, self.saved_run = self.state.images_seen, self.extra.get("run_id")

    def forget(self) -> None:
        """Removes the checkpoints, and with them all that is known of this training."""
        if leads():
            finished.clear(self.folder)

    def keep(self, model: Path) -> None:
        """The training has ended in this file, and its last checkpoint stays until DVC has recorded it."""
        if leads():
            finished.keep(self.folder, model=model, run_id=self.extra.get("run_id"))


def begin(
    spec: dict[str, Any],
    images: Images,
    labels: np.ndarray | None,
    *,
    data_hash: str,
    code_hash: str,
    objective: Objective,
    settings: Train,
    runtime: Runtime,
    device: torch.device,
    precision: Precision,
    state_folder: Path,
) -> Training:
    """A training of the network in `spec` (see model_file), from its last checkpoint where there is one.

    Checkpoints are kept under `state_folder/<fingerprint>`: other parameters, data or code are another training.
    `code_hash` is that of all code that the result depends on (`checkpoint.code_hash`).
    Raises UserError if runtime.resume is `required` and there is nothing to resume.
    """
    fingerprint = checkpoint.fingerprint(
        {"spec": spec, "train": as_dict(settings), "data": data_hash, "code": code_hash}
    )
    torch.manual_seed(seed_of("init", settings.seed))
    training = Training(
        state=new_state(
            build_network(spec).to(device), settings=settings, parallel=runtime.parallel, precision=precision
        ),
        batches=Batches(
            images,
            labels,
            batch_size=settings.batch_size,
            seed=settings.seed,
            flip=settings.flip,
            device=device,
            shuffle_shards=settings.shuffle_shards,
        ),
        spec=spec,
        objective=objective,
        settings=settings,
        runtime=runtime,
        device=device,
        precision=precision,
        folder=state_folder / fingerprint,
        fingerprint=fingerprint,
        code_hash=code_hash,
        extra={},
    )
    if runtime.compile:
        training.state.network.compile()
    if runtime.resume == "never" and not any_of(restarted())[0]:
        training.forget()
        together()
        return training
    extra, refused = checkpoint.restore(training.folder, training.state, fingerprint=fingerprint)
    require_same(training.state.images_seen, what="the last checkpoint")
    for sentence in refused if leads() else ():
        print(sentence)
    if refused and extra is None and runtime.resume != "required" and leads():
        print("no checkpoint is left to go on from; the training starts anew")
    if extra is not None:
        training.extra, training.saved_images = extra, training.state.images_seen
        training.saved_run = extra.get("run_id")
        if leads():
            print(f"going on after {training.state.images_seen} images, from {training.folder}")
    elif runtime.resume == "required":
        raise UserError(
            f"runtime.resume is required, but {training.folder} holds no checkpoint of these parameters, "
            "data and code; set it to auto to start anew"
        )
    return training


def run(
    training: Training,
    *,
    tracker: Tracker,
    log_every_images: int,
    grid_every_images: int,
    picture: Callable[[], "Image"],
) -> list[dict[str, float | None]]:
    """Trains to the end and returns the curves, one row per `log_every_images`.

    `picture` draws samples of the average. The end is saved too, so that nothing is trained twice where what comes
    after it is cut off. On SIGTERM and SIGINT the step is finished, the state is saved,
    and Stopped ends the process. Raises UserError where memory runs out; the last checkpoint stays.
    """
    from tqdm import tqdm

    state, total = training.state, training.settings.images
    curves: list[dict[str, float | None]] = training.extra.setdefault("curves", [])
    meter = Meter(**training.extra.get("meter", {}))

    def save() -> None:
        training.extra["meter"] = vars(meter).copy()
        training.save()

    if any(any_of(not state.images_seen, training.extra.get("run_id") != training.saved_run)):
        save()  # so that even a training killed in its first seconds goes on in the tracker's same run
    saved_at = logged_at = time.monotonic()
    logged_images = state.images_seen
    batch = training.settings.batch_size
    bar = tqdm(
        total=-(-total // batch) * batch,
        initial=state.images_seen,
        unit=" images",
        desc="training",
        disable=not (training.runtime.progress and leads()),
    )

    def stop(asked: list[signal.Signals]) -> NoReturn:
        save()
        together()  # who ends first is taken for lost
        if leads():
            print(
                f"stopped after {state.images_seen} images, of which {training.saved_images} are saved; "
                "the same command goes on from there"
            )
        raise Stopped(128 + (asked or [signal.SIGTERM])[0])

    with bar, _signals() as asked_to_stop, _memory_told(training):
        for step in training.steps():
            meter.add(step)
            bar.update(step.images_seen - bar.n)
            if _crossed(step, log_every_images) or step.images_seen >= total:
                row = meter.row(step)
                curves.append(row)
                meter = Meter()
                now = time.monotonic()
                speed = (step.images_seen - logged_images) / (now - logged_at)
                logged_at, logged_images = now, step.images_seen
                metrics = {name: value for name, value in row.items() if value is not None and name != "images_seen"}
                metrics |= {"images_per_second": speed, "nonfinite_steps": float(state.nonfinite_steps)}
                tracker.log(metrics, images_seen=step.images_seen)
                if row["loss"] is not None:
                    bar.set_postfix(loss=f"{row['loss']:.4f}")
            if _crossed(step, grid_every_images) or step.images_seen >= total:
                tracker.image("samples", picture(), images_seen=step.images_seen)
            overdue = time.monotonic() - saved_at > training.runtime.checkpoint_seconds
            stopping, due = any_of(bool(asked_to_stop), overdue)
            if stopping:
                stop(asked_to_stop)
            if due:
                save()
                saved_at = time.monotonic()
        stopping, unsaved = any_of(bool(asked_to_stop), training.saved_images < state.images_seen)
        if stopping:
            stop(asked_to_stop)
        if unsaved:
            save()
    return curves


def _crossed(step: Step, every: int) -> bool:
    """Whether the step reached or passed a multiple of `every` images."""
    return step.images_seen // every > (step.images_seen - len(step.t)) // every


@contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM and SIGINT instead of dying of them."""
    caught: list[signal.Signals] = []

    def note(number: int, _: object) -> None:
        caught.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _memory_told(training: Training) -> Iterator[None]:
    """Memory that ran out as one sentence. The state is in the middle of a step then, so it is not saved."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            f"memory of {training.device} ran out with {training.settings.batch_size} images in a step; lower "
            "runtime.device_batch (images at a time, on which no result depends) and start the same command again, "
            f"which goes on after {training.saved_images} images"
        ) from error


def write_curves(path: Path, curves: list[dict[str, float | None]]) -> None:
    """CSV, one row per logging interval; an empty cell where a quarter saw no image, or every step was skipped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, CURVES)
        writer.writeheader()
        writer.writerows(curves)


def summary(training: Training, curves: list[dict[str, float | None]]) -> dict[str, float | None]:
    """The training in three figures: the loss is that of the last interval that has one, None where none has."""
    losses = [row["loss"] for row in curves if row["loss"] is not None]
    return {
        "loss": losses[-1] if losses else None,
        "images_seen": training.state.images_seen,
        "nonfinite_steps": training.state.nonfinite_steps,
    }
