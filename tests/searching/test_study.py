"""The study of a search survives its process, counts no trial twice, and stops a hopeless one."""

from pathlib import Path

import pytest

from ddpm.searching import study
from ddpm.searching.settings import Search

pytest.importorskip("optuna")
SETTINGS = Search(validation=0.2, random=2, prune=True, seed=0)


def opened(folder: Path, settings: Search = SETTINGS) -> "study.Study":
    return study.open_study(folder / "a folder/study.db", better="lower", settings=settings, first={"x": 0.5})


def value_of_next(folder: Path) -> tuple[int, float]:
    """Open the study as a new process does, take the next trial and draw its value."""
    with study.closing(opened(folder)) as known:
        trial = study.next_trial(known, SETTINGS)
        return trial.number, trial.suggest_float("x", 0, 1)


def told(folder: Path, number: int, value: float) -> None:
    with study.closing(opened(folder)) as known:
        known.tell(number, value)


def test_the_first_trial_has_the_present_values_and_an_interrupted_one_is_continued_and_not_counted(
    tmp_path: Path,
) -> None:
    assert value_of_next(tmp_path) == (0, 0.5)
    assert value_of_next(tmp_path) == (0, 0.5)
    assert study.ended(opened(tmp_path)) == []
    told(tmp_path, 0, 3.0)
    second = value_of_next(tmp_path)
    assert second[0] == 1
    assert value_of_next(tmp_path) == second
    assert len(study.ended(opened(tmp_path))) == 1


def test_a_search_that_was_stopped_makes_the_trials_of_one_that_was_not(tmp_path: Path) -> None:
    drawn = {}
    for name in ("stopped", "whole"):
        values = []
        known = opened(tmp_path / name)
        for number in range(5):
            if name == "stopped":
                value_of_next(tmp_path / name)  # is killed here
            trial = study.next_trial(known, SETTINGS)
            values.append(trial.suggest_float("x", 0, 1))
            known.tell(trial, (values[-1] - 0.2) ** 2)
            assert trial.number == number
        drawn[name] = values
    assert drawn["stopped"] == drawn["whole"]
    assert len(set(drawn["whole"])) == 5


@pytest.mark.parametrize(("prune", "expected"), [(True, [False, False, True, False]), (False, [False] * 4)])
def test_a_training_worse_than_the_median_is_hopeless_once_enough_trials_were_measured(
    prune: bool, expected: list[bool], tmp_path: Path
) -> None:
    settings = Search(validation=0.2, random=2, prune=prune, seed=0)
    known = opened(tmp_path, settings)
    hopeless = []
    for fid in (10.0, 12.0, 99.0, 5.0):
        trial = study.next_trial(known, settings)
        hopeless.append(study.report(trial, [(100, fid)], better="lower"))
        known.tell(trial, fid)
    assert hopeless == expected


def test_a_fid_is_reported_once_whatever_is_looked_up_again(tmp_path: Path) -> None:
    known = opened(tmp_path)
    trial = study.next_trial(known, SETTINGS)
    study.report(trial, [(100, 9.0)], better="higher")
    study.report(trial, [(100, 1.0), (200, 8.0)], better="higher")
    assert known.get_trials()[0].intermediate_values == {100: -9.0, 200: -8.0}
