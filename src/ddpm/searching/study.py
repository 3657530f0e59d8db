"""The study of a search in a database of Optuna: which values come next, and how its trials ended."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddpm.errors import UserError
from ddpm.searching.settings import Search
from ddpm.seeding import seed_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

NAME = "search"


def require_optuna() -> None:
    """Raise UserError unless Optuna is installed."""
    if find_spec("optuna") is None:
        raise UserError('a search needs optuna, which is not installed here; run `pip install "ddpm-factory[search]"`')


def open_study(
    file: Path, *, better: Literal["lower", "higher"], settings: Search, first: Mapping[str, Any] | None = None
) -> "Study":
    """Return the study in this SQLite file; a new one gets the values `first`, by key, as its first trial.

    A trial that was running when its process died stays open, and `next_trial` continues it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{file}",
        study_name=NAME,
        direction="minimize" if better == "lower" else "maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=settings.random)
        if settings.prune
        else optuna.pruners.NopPruner(),
    )
    if first is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(first))
    return study


def next_trial(study: "Study", settings: Search) -> "Trial":
    """Return the trial that was interrupted, or else a new one.

    The values of a new trial depend on the seed and the trials before it alone, so a search that was stopped and
    continued makes the trials of one that was not.
    """
    import optuna
    from optuna.trial import Trial, TrialState

    interrupted = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    number = interrupted[0].number if interrupted else len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=settings.random, seed=seed_of("search", settings.seed, number) % 2**32
    )
    return Trial(study, interrupted[0]._trial_id) if interrupted else study.ask()


def report(trial: "Trial", fids: Sequence[tuple[int, float]], *, better: Literal["lower", "higher"]) -> bool:
    """Store FIDs during the training, each after so many images; return whether the trial is hopeless.

    Where higher values of the metric of the search are better, the study keeps the negative FID.
    """
    known = trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values
    hopeless = False
    for images, fid in fids:
        if images not in known:
            trial.report(fid if better == "lower" else -fid, images)
            hopeless = hopeless or trial.should_prune()
    return hopeless


def ended(study: "Study") -> list["FrozenTrial"]:
    """Return the trials that count: those that were measured and those that were stopped as hopeless."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def measured(study: "Study") -> list["FrozenTrial"]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


@contextmanager
def closing(study: "Study") -> Iterator["Study"]:
    """Close the database after the block."""
    try:
        yield study
    finally:
        study._storage.remove_session()
