"""The trials of a search: each trains in the search's clone of the project, as a task of the flow.

A trial becomes an MLflow run, nested in that of the search, and a DVC experiment.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import dvc_stage
from pages import METRICS
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from ddpm import overlay, yaml_file
from ddpm.cli.spread import recipe_fingerprint
from ddpm.data.reading.dataset import read_facts
from ddpm.errors import UserError
from ddpm.files import write_text
from ddpm.params import load as load_params
from ddpm.pipeline.workspace import GRACE_SECONDS, InUseError, claim
from ddpm.search_space import Space
from ddpm.searching import study, workspace
from ddpm.searching.validation_part import write_search_data
from ddpm.settings import as_dict
from ddpm.tracking import search_run
from ddpm.training import checkpoint

if TYPE_CHECKING:
    from optuna.trial import Trial

FOLDER = Path(".state/search")
CANDIDATE = "candidate"
STAGES = ("train", "sample", "evaluate")
PARAMS, PREPARED = Path("params.yaml"), Path("data/prepared")
_LOOK_SECONDS = 2.0
"""Interval at which the FIDs of a training are looked up."""


class Trials:
    """A search: its study, its MLflow run, and the clone of the project in which its trials run.

    All of it is in a folder that is named after everything that determines the results: the same search continues.
    Within the block nothing else runs in the clone.
    """

    def __init__(self, space: Space, options: Mapping[str, float | None]) -> None:
        """Raises UserError for settings that no search can use."""
        self._values = yaml_file.read(PARAMS)
        self.params = load_params()
        if self.params.train.start is not None:
            raise UserError(
                f"train.start is {self.params.train.start}, a model that may have seen the images on which a search "
                "measures its trials; set it to null"
            )
        self.space, self._options = space, options
        self.metric = self.params.promote.main
        if self.metric.group not in ("quality", "copies") or self.metric.better is None:
            raise UserError(
                f"the first rule of promote.rules is about {self.metric.name}, by which a search cannot compare its "
                "trials; put a rule for a metric of reports/metrics.json first, such as fid"
            )
        self.better = self.metric.better
        self.settings = self.params.search
        self.folder = FOLDER / self._fingerprint()
        self.clone = (self.folder / "trials").absolute()
        self.name = f"search-{self.folder.name[:8]}"
        self.best_file = self.folder / "best.yaml"
        self._held = ExitStack()

    def __enter__(self) -> "Trials":
        workspace.make(self.clone)
        self._held.enter_context(_owned(self.clone))
        self._bring_images()
        first = self.space.present(self._values)
        self.study = study.open_study(
            self.folder.absolute() / "study.db", better=self.better, settings=self.settings, first=first
        )
        self.run = search_run.begin(
            self.experiment,
            name=self.name,
            run_id=self.study.user_attrs.get("run"),
            params={each.key: overlay.as_yaml(list(each.ends)) for each in self.space.dimensions}
            | {"metric": self.metric.name, "images.train": self.facts.train, "images.validation": self.facts.test},
        )
        self.study.set_user_attr("run", self.run.id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        with suppress(UserError):
            self.run.end("FINISHED" if error is None else "KILLED")

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment: another one than that of candidates."""
        return f"{self.params.tracking.experiment} search"

    def left(self, number: int) -> bool:
        """Return whether fewer than `number` trials were measured or stopped as hopeless."""
        return len(study.ended(self.study)) < number

    def run_next(self) -> State:
        """Run the next trial, or the one that was interrupted, as a task; return its state."""
        trial = study.next_trial(self.study, self.settings)
        title = f"trial {trial.number}"
        return run_trial.with_options(name=title, task_run_name=title)(self, trial, return_state=True)

    def train_and_measure(self, trial: "Trial") -> State:
        """Run the stages of a trial in the clone and record how it ended."""
        values, number = self.space.suggested(trial), trial.number
        shown = ", ".join(str(change) for change in self._changes(values)) or "the present settings"
        get_run_logger().info(f"trial {number}: {shown}")
        try:
            overlay.overlaid(self._values, PARAMS, values, f"trial {number}")
        except UserError as error:  # values that are valid each by itself
            return self._stopped(trial, values, f"not trained: {error}")
        if not trial.user_attrs.get("begun"):
            workspace.clear(self.clone, list(STAGES))
            _write_params(self.clone, values, {"tracking": {"experiment": self.experiment}, "runtime": _RESUMING})
            trial.set_user_attr("begun", True)
        with self.run.of_trial(number), chdir(self.clone):
            outcome, hopeless = self._stages(trial)
        if hopeless:
            return self._stopped(trial, values, outcome.message)
        value = None if not outcome.ok else _measured(self.clone, self.metric.name)
        if value is None:
            self.run.end_trial(number, "failed")
            self._tell(trial, None, "failed")
            message = outcome.message if not outcome.ok else f"{self.metric.name} is not in reports/metrics.json"
            return Failed(message=f"trial {number} ({shown}): {message}")
        self._save(number, values, STAGES)
        self.run.end_trial(number, "measured")
        self._tell(trial, value, "measured")
        return Completed(name="Measured", message=f"trial {number}: {self.metric.label} {value:.4g} ({shown})")

    def finish(self) -> Path | None:
        """Write the best values as an overlay of params.yaml, and return its path; None if no trial was measured."""
        if not study.measured(self.study):
            return None
        best = self.study.best_trial
        self.run.log_best(best.value or 0.0, trial=best.number)
        text = "".join(f"{name}: {overlay.as_yaml(value)}\n" for name, value in self._best_values().items())
        write_text(self.best_file, text)
        self.run.artifact(self.best_file)
        return self.best_file

    @contextmanager
    def candidate(self, stages: list[str]) -> Iterator[None]:
        """Work in a clone with all images of the project and the best values, in which `stages` train and register."""
        folder = (self.folder / CANDIDATE).absolute()
        workspace.make(folder)
        with _owned(folder):
            workspace.bring(folder, workspace.read_by(stages, yaml_file.read(Path("dvc.yaml"))))
            _write_params(folder, self._best_values(), {"runtime": _RESUMING})
            with search_run.of_candidate(self.run.id), chdir(folder):
                yield

    def save_candidate(self, stages: list[str]) -> None:
        """Record the best settings and their model as a DVC experiment of the project."""
        folder = (self.folder / CANDIDATE).absolute()
        _write_params(folder, self._best_values())
        workspace.save(folder, f"{self.name}-{CANDIDATE}", stages, report=get_run_logger().info)

    def _fingerprint(self) -> str:
        facts = read_facts(PREPARED)
        return checkpoint.fingerprint(
            {
                "recipe": recipe_fingerprint(self.params, facts.content_hash),
                "seed": self.params.train.seed,
                "search": as_dict(self.settings),
                "metric": self.metric.name,
                "space": [as_dict(dimension) for dimension in self.space.dimensions],
            }
        )

    def _bring_images(self) -> None:
        """Bring what trials read into the clone: of the prepared images a part of those for training, made anew."""
        paths = workspace.read_by(list(STAGES), yaml_file.read(Path("dvc.yaml")))
        workspace.bring(self.clone, [path for path in paths if path != PREPARED and PREPARED not in path.parents])
        self.facts = write_search_data(
            PREPARED,
            self.clone / PREPARED,
            validation=self.settings.validation,
            seed=self.settings.seed,
            shard_bytes=self.params.data.shard_bytes,
            runtime=self.params.runtime,
        )

    def _changes(self, values: dict[str, Any]) -> list[overlay.Change]:
        return list(overlay.changes_of(self._values, values, PARAMS, "the search"))

    def _best_values(self) -> dict[str, Any]:
        from optuna.trial import FixedTrial

        return self.space.suggested(FixedTrial(self.study.best_trial.params))

    def _stages(self, trial: "Trial") -> tuple[dvc_stage.Outcome, bool]:
        """Run the stages that this trial has not run yet; return how they ended and whether the trial is hopeless."""
        done: list[str] = list(trial.user_attrs.get("done", []))
        outcome = dvc_stage.Outcome(True, "done")
        limits = {name: self._options[name] for name in ("timeout_seconds", "silent_seconds")}
        for stage in [stage for stage in STAGES if stage not in done]:
            watch = _Watch(self, trial) if stage == "train" and self.settings.prune else None
            for _ in range(1 + int(self._options["retries"] or 0)):
                outcome = dvc_stage.run(stage, force=True, report=get_run_logger().info, stop=watch, **limits)
                if outcome.ok or not outcome.try_again:
                    break
                time.sleep(self._options["retry_delay_seconds"] or 0)
            if watch and watch.hopeless:
                return outcome, True
            if not outcome.ok:
                return outcome, False
            done.append(stage)
            trial.set_user_attr("done", done)
        return outcome, False

    def _stopped(self, trial: "Trial", values: dict[str, Any], why: str) -> State:
        """Record a trial that has no metrics because it was stopped, or could not be trained."""
        workspace.clear(self.clone, list(STAGES))
        _write_params(self.clone, values)
        with chdir(self.clone):  # DVC keeps an experiment of a stage that has run
            made = dvc_stage.run("configure", force=True, timeout_seconds=None, report=get_run_logger().info)
        if made.ok:
            self._save(trial.number, values, ("configure",))
        else:
            get_run_logger().warning(f"trial {trial.number} is no DVC experiment: {made.message}")
        self.run.end_trial(trial.number, "pruned")
        self._tell(trial, None, "pruned")
        return Completed(name="Stopped", message=f"trial {trial.number}: {why}")

    def _save(self, number: int, values: dict[str, Any], stages: tuple[str, ...]) -> None:
        _write_params(self.clone, values)
        name = f"{self.name}-trial-{number}"
        workspace.save(self.clone, name, list(stages), report=get_run_logger().info)

    def _tell(self, trial: "Trial", value: float | None, state: str) -> None:
        from optuna.trial import TrialState

        states = {"measured": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.study.tell(trial.number, value, state=states[state])


@task(cache_policy=NO_CACHE)
def run_trial(trials: Trials, trial: "Trial") -> State:
    """Train and measure one trial; the message of the state says what came of it."""
    return trials.train_and_measure(trial)


class _Watch:
    """Looks up the FIDs of a running training, and says when it is hopeless."""

    def __init__(self, trials: Trials, trial: "Trial") -> None:
        self.hopeless = False
        self._trials, self._trial = trials, trial
        self._looked = time.monotonic()

    def __call__(self) -> str | None:
        """Return why the training is stopped; None while it goes on."""
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return None
        try:
            fids = self._trials.run.fids(self._trial.number)
        except UserError:  # a store that is busy answers the next time
            fids = []
        self.hopeless = study.report(self._trial, fids, better=self._trials.better)
        self._looked = time.monotonic()
        if not self.hopeless:
            return None
        images, fid = fids[-1]
        return f"stopped after {images} images, because FID {fid:.4g} is worse than the median of the trials before it"


_RESUMING = {"resume": "auto"}


def measured_by(trials: Trials) -> str:
    """Return a sentence about the trials and the best one."""
    best = trials.study.best_trial
    counted, stopped = (
        len(study.ended(trials.study)),
        len(study.ended(trials.study)) - len(study.measured(trials.study)),
    )
    return (
        f"{counted} trials, {stopped} of them stopped early; trial {best.number} is the best, with "
        f"{trials.metric.label} {best.value:.4g} on images for validation"
    )


def _write_params(folder: Path, values: dict[str, Any], more: Mapping[str, Any] | None = None) -> None:
    """Write params.yaml of a clone: the project's, with these values."""
    shutil.copyfile(PARAMS, folder / PARAMS)
    for each in (values, more or {}):
        overlay.write_values(folder / PARAMS, dict(each), "the search")


def _measured(clone: Path, name: str) -> float | None:
    value = json.loads((clone / METRICS).read_text()).get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _owned(clone: Path) -> ExitStack:
    """Own a clone; wait for the stage of a search that was killed, which saves its work and ends."""
    held = ExitStack()
    deadline = time.monotonic() + 2 * GRACE_SECONDS
    while True:
        try:
            with chdir(clone):
                held.enter_context(claim("the flow search"))
            return held
        except InUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)
