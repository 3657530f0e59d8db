"""Bits per dimension of held-out images: the parts of the bound, independence of the batch size, and every process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm import model_file
from ddpm.diffusion.processes import LinearPath
from ddpm.images import LEVEL
from ddpm.measuring.bits_per_dim import NOT_MEASURED, BitsPerDim, measure

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(9, dtype=np.int64) % 4


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddpm.measuring.bits_per_dim.STEPS", 40)
    monkeypatch.setattr("ddpm.measuring.bits_per_dim.ODE_STEPS", 10)


def measured(path: Path, tiny_model: Callable[..., str], *, n: int = 5, batch: int = 4, **changes: Any) -> BitsPerDim:
    tiny_model(path, **changes)
    return measure(model_file.load(path), IMAGES, LABELS, n=n, batch=batch, progress=False)


def objective(**changes: Any) -> dict[str, Any]:
    return {"target": "v", "weight": "simple", "min_snr_gamma": 5.0} | changes


def test_the_bound_is_the_sum_of_its_terms(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    found = measured(tmp_path / "m.safetensors", tiny_model)
    assert found.images == 5
    assert [t for t, _ in found.terms] == list(range(50, 0, -1))
    assert found.bound == pytest.approx(found.bound_prior + sum(term for _, term in found.terms), rel=1e-4)  # type: ignore[operator]
    assert found.bound_decoder == found.terms[-1][1]
    found.write(tmp_path / "means.json", terms=tmp_path / "terms.csv")
    assert json.loads((tmp_path / "means.json").read_text())["bound"] == found.bound
    assert len((tmp_path / "terms.csv").read_text().splitlines()) == 51


def test_the_figures_do_not_depend_on_the_batch(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    one, other = (measured(tmp_path / "m.safetensors", tiny_model, batch=batch) for batch in (2, 5))
    assert one.bound == pytest.approx(other.bound, rel=1e-4)
    assert one.ode == pytest.approx(other.ode, rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": {"name": "cosine", "T": 20, "time": "continuous"}},
        {"schedule": {"name": "cosine", "T": 20, "zero_terminal_snr": True}},
        {
            "schedule": {"name": "variance_exploding", "T": 20, "time": "continuous"},
            "objective": objective(target="edm", weight="edm"),
        },
        {"objective": objective(learned_variance=True)},
    ],
)
def test_every_process_and_objective_has_both_figures(
    changes: dict[str, Any], tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    found = measured(tmp_path / "m.safetensors", tiny_model, n=2, **changes)
    # Random images need 8 bits per dimension under any model; an untrained model may need more.
    assert 7.9 < found.bound < 1000  # type: ignore[operator]
    assert 7.9 < found.ode < 1000  # type: ignore[operator]


def test_a_continuous_process_begins_at_a_noise_that_blurs_the_grey_levels(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    sections: dict[str, Any] = {
        "schedule": {"name": "linear_path", "time": "continuous", "T": 1000},
        "objective": objective(target="v"),
    }
    found = measured(tmp_path / "m.safetensors", tiny_model, n=1, **sections)
    t, process = torch.tensor([found.terms[-1][0]], dtype=torch.float64), LinearPath(1000.0)
    assert float(process.sigma(t) / process.alpha(t)) == pytest.approx(LEVEL / 2, rel=1e-3)


def test_what_was_not_measured_is_null_in_the_file_and_absent_in_the_tracker(tmp_path: Path) -> None:
    NOT_MEASURED.write(tmp_path / "means.json", terms=tmp_path / "terms.csv")
    nothing = {"images": 0, "bound": None, "bound_prior": None, "bound_decoder": None, "ode": None}
    assert json.loads((tmp_path / "means.json").read_text()) == nothing
    assert NOT_MEASURED.numbers() == {}
