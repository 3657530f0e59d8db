"""The distribution of the noise level in training does not depend on the shift of a process; that of the time does."""

import math

import pytest
import torch

from ddpm.diffusion.processes import LinearPath
from ddpm.training.times import LogNormal

DRAWS = 20_000


@pytest.mark.parametrize("shift", [0.1, 0.3, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_log_normal_times_of_a_linear_path_are_logit_normal_with_the_mean_less_the_logarithm_of_the_shift(
    shift: float, mean: float
) -> None:
    path = LinearPath(1.0, shift)
    torch.manual_seed(0)
    t, _ = LogNormal(path, mean=mean, std=1.0).draw(DRAWS, torch.device("cpu"))
    tolerance = 4 / math.sqrt(DRAWS)
    t = t.double()
    noise = (path.sigma(t).double() / path.alpha(t).double()).log()
    assert float(noise.mean()) == pytest.approx(mean, abs=tolerance)
    assert float(noise.std()) == pytest.approx(1, abs=tolerance)
    assert float(torch.logit(t).mean()) == pytest.approx(mean - math.log(shift), abs=tolerance)


@pytest.mark.parametrize("shift", [0.1, 0.2, 0.42, 1.0])
def test_log_normal_times_are_finite_also_near_pure_noise(shift: float) -> None:
    t, _ = LogNormal(LinearPath(1000.0, shift), mean=12.0, std=6.0).draw(DRAWS, torch.device("cpu"))
    assert bool(t.isfinite().all())
    assert float(t.max()) <= 1000
