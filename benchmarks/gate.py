"""How often the gate promotes: simulated decisions about models with Gaussian features, at the sizes of `make run`.

    OMP_NUM_THREADS=1 python benchmarks/gate.py --output benchmarks/results/gate.md

Images have ten classes of equal size, Gaussian about their means with a spectrum that falls as k^-1.5. Champion and
candidate shift and stretch them, each in its own directions, so that their distances to the real images are known.
Image k of both models shares a part of its noise, as two trainings of the default recipe with other seeds do (the
influences of image k on their FID correlate by 0.6 to 0.8). The decisions are those of `ddpm.promotion.gate`, by the
FID of `ddpm.measuring`, with all looks.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from common import command, machine, table, write
from simulated_contest import SimulatedContest

from ddpm import params
from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import frechet_distance
from ddpm.promotion.gate import decide
from ddpm.promotion.settings import Promote, Rule

DIM = 64
CLASSES = 10
WITHIN = 0.25
"""Share of the variance that is within classes, so that the champion has about the FID of the default model."""
SPECTRUM = np.arange(1, DIM + 1) ** -1.5
SCALE = np.sqrt(DIM * SPECTRUM / SPECTRUM.sum())
"""Standard deviations; the mean variance is 1, as that of the extractor's features."""
MEANS = np.sqrt(1 - WITHIN) * SCALE * np.random.default_rng(0).standard_normal((CLASSES, DIM))
CHAMPION = 0.2
"""Distance of the champion from the real images, that of the default model."""


class Imitation:
    """A model at a known distance from the real images, half by a shift and half by other standard deviations.

    Both are in random directions, so that the real images that happen to be there favour one model or the other.
    """

    def __init__(self, distance: float, random: np.random.Generator) -> None:
        shift, factors = random.standard_normal((2, DIM))
        variances = MEANS.var(axis=0) + WITHIN * SCALE**2
        self._shift = shift * np.sqrt(distance / 2 / np.sum(shift**2))
        self._factors = 1 + factors * np.sqrt(distance / 2 / np.sum(factors**2 * variances))

    def __call__(self, real: np.ndarray) -> np.ndarray:
        """Return the model's features for features of real images."""
        return (real - MEANS.mean(axis=0)) * self._factors + MEANS.mean(axis=0) + self._shift


def contest(seed: int, *, n: int, m: int, distances: tuple[float, float], shared: float) -> SimulatedContest:
    """Return a contest of a candidate and a champion at these distances from the real images."""
    random = np.random.default_rng(seed)
    candidate, champion = (Imitation(distance, random) for distance in distances)
    return SimulatedContest(
        random,
        n=n,
        m=m,
        dim=DIM,
        real=_images,
        models=(candidate, champion),
        described=_described,
        shared=shared,
    )


def _images(noise: np.ndarray, first: int = 0) -> np.ndarray:
    """Return features [N,64] of images with standard normal noise [N,64]; image k has the class k modulo 10."""
    return MEANS[(first + np.arange(len(noise))) % CLASSES] + np.sqrt(WITHIN) * SCALE * noise


def _described(features: np.ndarray) -> Described:
    found = Described(torch.from_numpy(features).float(), torch.zeros(len(features), 1))
    return found.of_classes(np.arange(len(features)) % CLASSES)


def fid_of_champion(*, n: int, m: int) -> float:
    """Return the mean FID of n images of the champion against m real ones."""
    random, found = np.random.default_rng(0), []
    for _ in range(20):
        drawn, real = (_images(random.standard_normal((size, DIM))) for size in (n, m))
        found.append(frechet_distance(_described(Imitation(CHAMPION, random)(drawn)), _described(real)))
    return statistics.mean(found)


def row(name: str, *, n: int, m: int, gain: float, shared: float, decisions: int, promote: Promote) -> dict[str, str]:
    """Return a line of the table: how often a candidate with this gain, as a share of the champion's FID, is promoted.

    The gain is one in the distance to the real images, which may not be larger than that of the champion.
    """
    fid = fid_of_champion(n=n, m=m)
    better = CHAMPION - gain * fid
    if better < 0:
        raise ValueError(f"a gain of {gain:.0%} of FID {fid:.3f} is more than the distance {CHAMPION}")
    found, images = 0, []
    for seed in range(decisions):
        simulated = contest(seed, n=n, m=m, distances=(better, CHAMPION), shared=shared)
        found += decide({"protocol": {"n": n}}, promote, simulated, has_champion=True).promote
        images.append(simulated.images)
    print(name, m, gain, found, decisions, flush=True)
    return {
        "candidate": name,
        "held-out images": f"{m:,}",
        "FID of the champion": f"{fid:.3f}",
        "decisions": str(decisions),
        "promoted": f"{found / decisions:.0%}",
        "images drawn of each (mean)": f"{statistics.mean(images):,.0f}",
    }


def main() -> None:
    args = parse()
    most = params.load(Path("params.yaml")).promote.max_images
    rules = (Rule(figure="fid", better_by=0.02),)
    promote = Promote(
        name="simulated", rules=rules, max_images=most, auto_rollback=False, approval="auto", approval_days=1
    )
    rows = [
        row(name, n=args.images, m=m, gain=gain, shared=shared, decisions=decisions, promote=promote)
        for name, m, gain, shared, decisions in (
            ("the champion itself, other seeds", 359, 0.0, 0.0, 2 * args.decisions),
            ("as good, same seeds", 359, 0.0, args.shared, args.decisions),
            ("10 % better", 359, 0.1, args.shared, args.decisions),
            ("20 % better", 359, 0.2, args.shared, args.decisions),
            ("30 % better", 359, 0.3, args.shared, args.decisions),
            ("10 % better", 3590, 0.1, args.shared, args.decisions),
            ("20 % better", 3590, 0.2, args.shared, args.decisions),
        )
    ]
    lines = [
        "# How often the gate promotes",
        f"Simulated decisions by the rule `{{figure: fid, better_by: 0.02}}` with {args.images:,} images of each model "
        f"at the first look and at most {most:,}: {DIM} features of {CLASSES} Gaussian classes, the champion at a "
        f"distance of {CHAMPION} from the real images. The gain is a share of the champion's FID at the first look; "
        f"models drawn with the same seeds share {args.shared:.0%} of their noise.",
        table(rows),
        f"{machine('cpu')}",
        f"`{command()}`",
    ]
    write(args.output, "\n\n".join(lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1438, help="of each model at the first look")
    parser.add_argument("--shared", type=float, default=0.8, help="share of the noise that both models have in common")
    parser.add_argument("--decisions", type=int, default=50, help="of each kind")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
