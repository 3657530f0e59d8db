"""Bits per dimension of held-out images, by two bounds: the terms of a chain, and the probability-flow ODE."""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.hardware import full_float32
from ddpm.degrading.pictures import Pictures
from ddpm.diffusion.bound import Estimate, bits, discretized_gaussian_nll, gaussian_kl
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.generation.batch import PerImageNoise
from ddpm.images import LEVEL, Images, to_model_range
from ddpm.model_file import Model
from ddpm.networks.vae import Autoencoder
from ddpm.sampling.grids import log_snr, uniform_grid
from ddpm.sampling.guidance import ConditionalDenoise, clipped
from ddpm.sampling.likelihood import Bound, ode_bound, variational_bound
from ddpm.sampling.samplers import Noise

STEPS = 1000
"""Steps of the variational bound for continuous time; a discrete chain has its own number."""
ODE_STEPS = 100
"""Steps of the ODE, two network evaluations each; 200 steps change the metric of the default model by 0.002."""


LEAST_NOISE = LEVEL / 2
"""Least noise level (sigma / alpha) of both bounds, but not of a chain, which has its own. Noise far below the distance
of two grey levels does not blur them into a density: on the linear path from T/1000, an eighth of that distance, the
bounds of a smooth model that is exact but for the levels are 0.8 bits looser. The default process begins at 0.8 of
the distance."""


@dataclass(frozen=True)
class BitsPerDim:
    """Means over the images, in bits per dimension; None if not measured."""

    images: int
    bound: float | None = None
    """Variational bound: the prior and the sum over all steps, decoder included; of a VAE the ELBO."""
    bound_prior: float | None = None
    """L_T of the variational bound."""
    bound_decoder: float | None = None
    """L_0 of the variational bound."""
    ode: float | None = None
    """The bound with the decoder from the least noise level of the ODE (`LEAST_NOISE`), and the ODE in place of all
    other steps."""
    terms: tuple[tuple[float, float], ...] = ()
    """(t, L) of every step, by descending t; the last is the decoder's."""
    by_image: Mapping[str, np.ndarray] = field(default_factory=dict)
    """float64 [images] by the name of a mean: the values of which it is the mean."""

    def means(self) -> dict[str, float | None]:
        """Return all means, and the number of images."""
        return {name: value for name, value in asdict(self).items() if name not in ("terms", "by_image")}

    def numbers(self) -> dict[str, float]:
        """Return the measured values by metric name, for a tracker."""
        found = {name: value for name, value in self.means().items() if value is not None and name != "images"}
        return {f"bits_per_dim_{name}": float(value) for name, value in found.items()}

    def write(self, path: Path, *, terms: Path) -> None:
        """Write the means as JSON to `path`, and t and the step's share of the bound as CSV to `terms`."""
        write_json(path, self.means())
        terms.parent.mkdir(parents=True, exist_ok=True)
        with open(terms, "w", newline="") as file:
            csv.writer(file).writerows([("t", "bits_per_dim"), *self.terms])


NOT_MEASURED = BitsPerDim(images=0)


@full_float32()
def measure(
    model: Model, images: Images, conditions: np.ndarray | Pictures | None, *, n: int, batch: int, progress: bool
) -> BitsPerDim:
    """Measure n evenly spaced images of these held-out ones (uint8 [N,C,H,W]), each with its condition.

    Of a VAE it is the ELBO: bound_prior is KL(q(z | x) || p(z)) and bound_decoder -log p(x | z), with the mass of the
    decoder's Gaussian within half a level. Raises UserError for a GAN, which has no likelihood.

    Both bounds of diffusion clip the model's estimate of x_0 to [-1, 1], as sampling does; a fixed variance is beta_t.
    """
    from tqdm import tqdm

    if model.spec.method == "gan":
        raise UserError(
            "bits per dimension need a likelihood, which a GAN does not have; set evaluate.bits_per_dim to 0"
        )
    n, device = min(n, len(images)), next(model.network.parameters()).device
    chosen = np.linspace(0, len(images) - 1, n).round().astype(np.int64)
    if model.spec.method == "vae":
        assert not isinstance(conditions, Pictures), "only diffusion is given pictures"
        return _elbo(model, images, conditions, chosen, batch=batch)
    process = model.schedule
    chain = isinstance(process.T, int)
    bound_grid = uniform_grid(process.T, int(process.T)) if chain else log_snr(process, STEPS, least=LEAST_NOISE)
    *ode_grid, _ = log_snr(process, ODE_STEPS, least=LEAST_NOISE)
    estimate = clipped(model.estimator())

    bounds: list[Bound] = []
    by_ode: list[Tensor] = []
    for at in tqdm(range(0, n, batch), desc="bits per dimension", disable=not progress):
        part = chosen[at : at + batch]
        x_0 = to_model_range(torch.from_numpy(images[part]).to(device))
        condition = None if conditions is None else torch.as_tensor(conditions[part]).to(device)
        noise = PerImageNoise(0, part.tolist(), tuple(x_0.shape[1:]), device)
        denoise = partial(_conditioned, estimate, condition=condition)
        with torch.no_grad():
            bounds.append(variational_bound(denoise, process, x_0, bound_grid, noise))
        by_ode.append(ode_bound(denoise, process, x_0, ode_grid, noise, partial(_signs, noise)))

    steps = torch.cat([bound.steps for bound in bounds]).mean(dim=0).tolist()
    return BitsPerDim(
        images=n,
        bound=_mean([bound.total for bound in bounds]),
        bound_prior=_mean([bound.prior for bound in bounds]),
        bound_decoder=steps[-1],
        ode=_mean(by_ode),
        terms=tuple(zip(map(float, bound_grid[:-1]), steps, strict=True)),
        by_image={
            "bound": _joined([bound.total for bound in bounds]),
            "bound_prior": _joined([bound.prior for bound in bounds]),
            "bound_decoder": _joined([bound.steps[:, -1] for bound in bounds]),
            "ode": _joined(by_ode),
        },
    )


@torch.no_grad()
def _elbo(model: Model, images: Images, labels: np.ndarray | None, chosen: np.ndarray, *, batch: int) -> BitsPerDim:
    """Return the bound of a VAE with one latent per image.  Kingma and Welling 2014, Eq. 3."""
    network, priors, decoders = model.network, [], []
    assert isinstance(network, Autoencoder)
    device = next(network.parameters()).device
    for at in range(0, len(chosen), batch):
        part = chosen[at : at + batch]
        x = to_model_range(torch.from_numpy(images[part]).to(device))
        y = None if labels is None else torch.from_numpy(labels[part]).to(device)
        mean, log_var = network.q(x, y)
        eps = PerImageNoise(0, part.tolist(), model.noise_shape, device)()
        x_hat = network.draw(mean + (0.5 * log_var).exp() * eps, y)
        zero = torch.zeros_like(mean)
        priors.append(bits(gaussian_kl(mean, log_var, zero, zero)) * mean[0].numel() / x[0].numel())
        decoders.append(bits(discretized_gaussian_nll(x, x_hat, (2 * network.log_sigma).expand_as(x_hat))))
    prior, decoder = _mean(priors), _mean(decoders)
    of_prior, of_decoder = _joined(priors), _joined(decoders)
    return BitsPerDim(
        images=len(chosen),
        bound=prior + decoder,
        bound_prior=prior,
        bound_decoder=decoder,
        by_image={"bound": of_prior + of_decoder, "bound_prior": of_prior, "bound_decoder": of_decoder},
    )


def _conditioned(denoise: ConditionalDenoise, x_t: Tensor, t: Tensor, *, condition: object) -> Estimate:
    return denoise(x_t, t, condition)


def _signs(noise: Noise) -> Tensor:
    return noise().sign()


def _joined(parts: list[Tensor]) -> np.ndarray:
    return torch.cat(parts).double().cpu().numpy()


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).mean())
