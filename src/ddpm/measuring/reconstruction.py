"""What an autoencoder loses: metrics of its reconstructions, and statistics of its latents."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddpm.compute.hardware import Precision, autocast, memory_format
from ddpm.diffusion.bound import gaussian_kl
from ddpm.images import Images, clipped, to_model_range, to_uint8
from ddpm.measuring.features.extractor import FeatureExtractor, describe, few_for_fid
from ddpm.measuring.features.subset import Subset, draw_rows
from ddpm.measuring.fidelity import hash_of, reference_images
from ddpm.measuring.frechet import fid_and_fid_infinity, frechet_distance
from ddpm.measuring.measured import Measured
from ddpm.measuring.psnr_ssim import psnr, ssim
from ddpm.measuring.record import Interval
from ddpm.measuring.settings import Evaluate
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.seeding import seed_of


@dataclass(frozen=True, eq=False)
class _Reconstructed:
    images: np.ndarray
    """uint8 [N,C,H,W]."""
    psnr: Tensor
    ssim: Tensor
    kl: Tensor
    """Nats: float64 [N], as the others."""
    moments: tuple[Tensor, Tensor]
    """Sums of the latents and of their squares by channel: float64 [L] each."""
    positions: int
    """Numbers that were added up for each channel."""


def measure_reconstruction(
    network: AutoencoderKL,
    train: Images,
    test: Images,
    *,
    extractor: FeatureExtractor,
    settings: Evaluate,
    n: int,
    seed: int,
    device: torch.device,
    precision: Precision,
    batch: int,
    progress: bool,
) -> dict[str, Any]:
    """Return a record, plain values as JSON has them, of an autoencoder on its device; images are uint8 [N,C,H,W].

    Of the held-out images (`reference_images`):
    - `n`, and `reference_hash`: their number and sha256.
    - `psnr` in dB and `ssim`, means over the images, of reconstructions that are not rounded to levels.
    - `kl`: mean over the images of KL(q(z | x) || N(0, I)), in nats.
    - `latents`: `mean` and `std` of the latents as the network standardises them, and both of every channel.
    - `reconstruction_fid`: FID of the reconstructions against the same images.
    Of training images, as many as `n` if there are so many: `decoded` has their number, and the FID of their
    reconstructions against the held-out images beside that of the images themselves, its `floor`, both with intervals.
    It is what a model that draws latents perfectly would have. Both FIDs are None if there are too few images for one.
    A reconstruction is that of the mean of q. Equal arguments give equal bits.
    """
    held_out, _ = reference_images(test, settings, seed=seed)
    rows = np.sort(draw_rows(min(n, len(train)), len(train), seed=seed_of("floor", seed)))
    real = Subset(train, rows)
    run: dict[str, Any] = {"device": device, "precision": precision, "batch": batch}
    of_held_out = _reconstructed(network, held_out, **run)
    record: dict[str, Any] = {
        "n": len(held_out),
        "reference_hash": hash_of(held_out),
        "psnr": float(of_held_out.psnr.mean()),
        "ssim": float(of_held_out.ssim.mean()),
        "kl": float(of_held_out.kl.mean()),
        "latents": _statistics(of_held_out),
        "reconstruction_fid": None,
        "decoded": {"n": len(real), "fid": None, "floor": None},
        "extractor": extractor.description.to_json(),
    }
    if few_for_fid(extractor.dim, {"held-out": len(held_out), "training": len(real)}):
        return record
    sets = {
        "held-out": held_out,
        "reconstructed": of_held_out.images,
        "training": real,
        "reconstructed training": _reconstructed(network, real, **run).images,
    }
    reference, again, floor, decoded = (
        describe(extractor, images, device=device, progress=progress, what=what) for what, images in sets.items()
    )
    record["reconstruction_fid"] = frechet_distance(again, reference)
    record["decoded"] |= {
        name: _with_interval(fid_and_fid_infinity(images, reference)[0])
        for name, images in (("fid", decoded), ("floor", floor))
    }
    return record


def _reconstructed(
    network: AutoencoderKL, images: Images, *, device: torch.device, precision: Precision, batch: int
) -> _Reconstructed:
    layout = memory_format(device, precision)
    network = network.to(memory_format=layout)
    made, values, sums, positions = [], [], [], 0
    zero = torch.zeros((), device=device)
    for start in range(0, len(images), batch):
        x = to_model_range(torch.from_numpy(np.array(images[start : start + batch])).to(device))
        with torch.inference_mode(), autocast(device, precision):
            mean, log_var = network.q(x.to(memory_format=layout))
            z = (mean - network.shift) * network.scale
            x_hat = clipped(network.decode(z))
        made.append(to_uint8(x_hat).cpu().numpy())
        kl = gaussian_kl(mean.double(), log_var.double(), zero, zero).flatten(1).sum(dim=1)
        values.append(torch.stack([psnr(x, x_hat), ssim(x, x_hat), kl]).cpu())
        flat = z.double().transpose(0, 1).flatten(1).cpu()
        sums.append(torch.stack([flat.sum(dim=1), flat.square().sum(dim=1)]))
        positions += flat.shape[1]
    (total, squares), (noise_ratio, similarity, divergence) = torch.stack(sums).sum(dim=0), torch.cat(values, dim=1)
    return _Reconstructed(
        np.concatenate(made), noise_ratio, similarity, divergence, moments=(total, squares), positions=positions
    )


def _statistics(found: _Reconstructed) -> dict[str, Any]:
    means, squares = (each / found.positions for each in found.moments)
    mean = means.mean()
    return {
        "mean": float(mean),
        "std": float((squares.mean() - mean**2).clamp(min=0).sqrt()),
        "mean_by_channel": means.tolist(),
        "std_by_channel": (squares - means**2).clamp(min=0).sqrt().tolist(),
    }


def _with_interval(measured: Measured) -> dict[str, Any]:
    return {"value": measured.value, "interval": asdict(Interval(measured.low, measured.high))}
