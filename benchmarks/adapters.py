"""What low-rank adapters give: a model of the digits 0 to 4 learns 5 to 9, in equal times, with and without them.

    python benchmarks/adapters.py --seconds 15 --output benchmarks/results/adapters.md

Time is this process's, on all cores. The loss is that of the averaged weights on held-out digits 5 to 9, with the same
times and noise for all.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import Images, command, load_images, machine, table, write
from contenders import EMA, Budget
from contenders.kept import ROOT
from few import Started

from ddpm import model_file
from ddpm.diffusion import objectives
from ddpm.images import to_model_range
from ddpm.model_file import Model
from ddpm.params import Params
from ddpm.params import load as load_params
from ddpm.training.session import Training
from ddpm.training.settings import Lora

DRAWS = 8
"""Times and noises for each held-out digit."""


def digits(among: range) -> Images:
    every = load_images(None, size=8)
    parts = [
        array[np.isin(labels, among)]
        for images, labels in ((every.train, every.train_labels), (every.test, every.test_labels))
        for array in (images, labels)
        if labels is not None
    ]
    return Images(f"digits {among[0]} to {among[-1]}", *parts)


@torch.no_grad()
def loss_of(model: Model, images: Images) -> float:
    """The loss on the held-out digits."""
    assert images.test_labels is not None
    n, generator = DRAWS * len(images.test), torch.Generator().manual_seed(0)
    x_0 = to_model_range(torch.from_numpy(images.test)).repeat(DRAWS, 1, 1, 1)
    labels = torch.from_numpy(images.test_labels).repeat(DRAWS)
    t = torch.randint(1, model.spec.schedule.T + 1, (n,), generator=generator).float()
    eps = torch.randn(x_0.shape, generator=generator)
    losses = objectives.loss(
        model.spec.objective,
        lambda x, c_noise: model.network(x, c_noise, labels),
        model.schedule,
        x_0=x_0,
        t=t,
        eps=eps,
    )
    return float(losses.mean())


class Counted(Started):
    """This project, remembering how many parameters it trains."""

    trained = 0

    def begin(self, images: Images, state: Path) -> Training:
        training = super().begin(images, state)
        self.trained = training.trained
        return training


def trained(params: Params, images: Images, seconds: float, folder: Path) -> tuple[Path, Budget, int]:
    """The model file, the time and images of its training, and how many parameters were trained."""
    folder.mkdir()
    contender, budget = Counted(params), Budget(seconds, clock=time.process_time)
    contender.train(images, budget, folder)
    return folder / f"{EMA}.safetensors", budget, contender.trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each training; the parent's has twice as many")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    import peft  # noqa: F401  this takes seconds and is no part of a training

    params, old, new = load_params(ROOT / "params.yaml"), digits(range(5)), digits(range(5, 10))
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        parent, *_ = trained(params, old, 2 * args.seconds, folder / "parent")
        for name, start, rank in (
            ("alone, all weights", None, 0),
            ("from the parent, all weights", str(parent), 0),
            ("from the parent, rank 4", str(parent), 4),
            ("from the parent, rank 16", str(parent), 16),
        ):
            lora = Lora(rank=rank, alpha=params.train.lora.alpha)
            each = replace(params, train=replace(params.train, start=start, lora=lora))
            file, budget, parameters = trained(each, new, args.seconds, folder / name.replace(" ", "_"))
            steps = budget.done / params.train.batch_size
            rows.append(
                {
                    "training": name,
                    "loss": f"{loss_of(model_file.load(file), new):.4f}",
                    "steps": f"{steps:.0f}",
                    "ms per step": f"{1000 * budget.spent / steps:.0f}",
                    "parameters trained": f"{parameters:,}",
                    "moments of the optimizer": f"{8e-6 * parameters:.1f} MB",
                }
            )
            print(rows[-1], flush=True)
    heading = f"# {args.seconds:g} seconds of processor time with digits 5 to 9, from a model of digits 0 to 4"
    write(args.output, "\n\n".join([heading, table(rows), machine("cpu"), f"`{command()}`"]))


if __name__ == "__main__":
    main()
