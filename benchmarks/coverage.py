"""How often the interval of each metric contains the truth, for sets that are drawn from known Gaussians.

    python benchmarks/coverage.py --output benchmarks/results/coverage.md
    python benchmarks/coverage.py --large --repetitions 50 --output benchmarks/results/coverage_large.md

The truth of FID at infinity is the Fréchet distance of the two Gaussians, that of KID its mean, because it has no bias,
and that of another metric its mean for sets of these sizes: both means are those of all repetitions. A difference is
that of two models against the same reference images, and its truth is the mean difference.
"""

import argparse
import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import command, machine, table, write

from ddpm.measuring.data_copying import data_copying
from ddpm.measuring.feature_metrics import measured
from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import fid_and_fid_infinity
from ddpm.measuring.kernel_distance import kid
from ddpm.measuring.measured import Measured, Z, difference
from ddpm.measuring.memorized_share import share
from ddpm.measuring.settings import Evaluate
from ddpm.measuring.spectrum import sharpness
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[1]
SHARED = 0.9
"""Correlation of the noise of image k of both models whose difference is measured in pairs."""
COPIES = 0.03
"""True share of copies."""
EXPLAINED = """\
# Coverage of the intervals

How many of 100 intervals of 95 % contain the truth, for {repetitions} repetitions with sets of known Gaussians: of
{repetitions} intervals that cover in 95 of 100 cases, nearly always {low:.0f} to {high:.0f} of 100 are seen to. In
brackets: the standard error that the intervals claim (half the width over {z:.2f}, root mean square), divided by the
standard deviation that the values have.

A case has d features, n generated images and m reference images. *Apart* says how much the two Gaussians differ in
mean and covariance, and its FID is the true distance. *Difference*: two models, image k of both with noise that
correlates by {shared}, or independent, against the same reference images."""


@dataclass(frozen=True)
class Case:
    """Two Gaussians and the sizes of the sets."""

    d: int
    n: int
    m: int
    apart: float

    def __str__(self) -> str:
        return f"d {self.d}, n {self.n:,}, m {self.m:,}, apart {self.apart:g} (FID {round(self.distance, 9):.3g})"

    @property
    def factors(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Factors [d,d] of the covariances of images and reference, and the mean [d] of the images."""
        random = np.random.default_rng(1)
        one, two = (random.normal(size=(self.d, self.d)) / np.sqrt(self.d) for _ in range(2))
        reference = one + 0.3 * np.eye(self.d)
        return reference + self.apart * two, reference, np.full(self.d, self.apart / np.sqrt(self.d))

    @property
    def distance(self) -> float:
        """The Fréchet distance, by the eigenvalues of the product of both covariances."""
        a, b, mean = self.factors
        roots = np.sqrt(np.clip(np.linalg.eigvals(a @ a.T @ b @ b.T).real, 0, None)).sum()
        return float(max(0.0, mean @ mean + np.sum(a**2) + np.sum(b**2) - 2 * roots))


SMALL = (
    Case(8, 300, 200, 0.0),
    Case(8, 300, 200, 0.6),
)
LARGE = (Case(64, 1438, 359, 0.0), Case(64, 1438, 359, 0.3), Case(4, 1000, 1000, 0.1))
"""The sizes of the default run, without classes, and many images of few features that hardly differ."""


def repetition(case: Case, random: np.random.Generator) -> Iterator[tuple[str, float, float, float]]:
    """Yield name, value, lower and upper end of every interval for one draw of all sets."""
    factor, of_reference, mean = case.factors
    settings = load_params(ROOT / "params.yaml").evaluate
    settings = dataclasses.replace(settings, kid_subset_size=min(settings.kid_subset_size, case.m // 2))
    noise = random.normal(size=(case.n, case.d))
    fresh = random.normal(size=(case.n, case.d))
    beside = SHARED * noise + math.sqrt(1 - SHARED**2) * fresh
    reference = _described(random.normal(size=(case.m, case.d)) @ of_reference.T)
    other = factor * (1 + 0.2 * np.linspace(-1, 1, case.d))
    seed = int(random.integers(2**31))
    images = _described(noise @ factor.T + mean)
    found = measured(images, reference, settings=settings, names_classes=True, seed=seed)
    found |= {
        "data_copying": _copying(noise @ factor.T + mean, reference.features.double().numpy(), of_reference),
        "sharpness": sharpness(*(np.square(part).mean(axis=1) for part in (noise, reference.features.numpy()))),
        "memorized_share": share(random.random(case.n) < COPIES),
    }
    for name, each in found.items():
        if each is not None:
            yield name, each.value, each.low, each.high
    for kind, drawn in (("paired", beside), ("independent", fresh)):
        for name, each in _distances(_described(drawn @ other.T + mean), reference, settings).items():
            one = found[name]
            apart = None if one is None else difference(one, each, paired=kind == "paired")
            if apart is not None:
                reach = Z * apart.standard_error
                yield f"difference of {name}, {kind}", apart.value, apart.value - reach, apart.value + reach


def _distances(images: Described, reference: Described, settings: Evaluate) -> dict[str, Measured]:
    fid, fid_infinity = fid_and_fid_infinity(images, reference)
    return {"fid": fid, "fid_infinity": fid_infinity, "kid": kid(images, reference, settings)}


def _described(features: np.ndarray) -> Described:
    rows = torch.from_numpy(features).float()
    return Described(rows, rows[:, :10])


def _copying(images: np.ndarray, held_out: np.ndarray, factor: np.ndarray) -> Measured | None:
    """Return C_T by training images that are the same in all repetitions."""
    d = len(factor)
    train = torch.from_numpy(np.random.default_rng(3).normal(size=(1000, d)) @ factor.T)
    sets = [torch.from_numpy(np.asarray(each, np.float64)) for each in (images, held_out)]
    near = [(each, torch.cdist(each, train).amin(dim=1).numpy()) for each in sets]
    return data_copying(near[0], near[1], train, seed=0)


def coverage_of(case: Case, repetitions: int) -> dict[str, str]:
    """Return the cell of the table for each metric."""
    random, rows = np.random.default_rng(2), defaultdict(list)
    for _ in range(repetitions):
        for name, *interval in repetition(case, random):
            rows[name].append(interval)
    known = {"fid_infinity": case.distance, "memorized_share": COPIES}
    cells = {}
    for name, found in rows.items():
        value, low, high = np.array(found).T
        truth = known.get(name, value.mean())
        covers = 100 * np.mean((low <= truth) & (truth <= high))
        error, spread = np.sqrt(np.mean(np.square((high - low) / 2 / Z))), value.std(ddof=1)
        cells[name] = f"{covers:.1f} ({error / spread:.2f})" if spread > 0 else f"{covers:.1f} (constant)"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="draws of all sets per case")
    parser.add_argument("--large", action="store_true", help="the sizes of the default run instead of small ones")
    parser.add_argument("--output", type=Path, help="Markdown file; default: print")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases = LARGE if options.large else SMALL
    columns = [coverage_of(case, options.repetitions) for case in cases]
    names = list(dict.fromkeys(name for column in columns for name in column))
    noise = 2 * math.sqrt(0.95 * 0.05 / options.repetitions)
    text = EXPLAINED.format(
        repetitions=options.repetitions, low=100 * (0.95 - noise), high=100 * (0.95 + noise), z=Z, shared=SHARED
    )
    rows = [
        {"metric": name} | {str(case): column.get(name, "") for case, column in zip(cases, columns, strict=True)}
        for name in names
    ]
    write(options.output, f"{text}\n\n{table(rows)}\n\n{machine()}.\n`{command()}`")


if __name__ == "__main__":
    main()
