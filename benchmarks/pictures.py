"""The pictures of docs/mathematics.md, drawn by the functions that it speaks of.

python benchmarks/pictures.py --model models/model.safetensors --prepared data/prepared --out docs
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ddpm import model_file
from ddpm.data.reading.dataset import read_split
from ddpm.degrading import operators
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.gaussian import q_sample
from ddpm.diffusion.processes import Process, VarianceExploding
from ddpm.diffusion.schedules import SCHEDULES, make_schedule
from ddpm.generation import picture_tasks
from ddpm.generation.batch import Batch, PerImageNoise
from ddpm.generation.recipe import neutral
from ddpm.images import LEVEL, to_model_range, to_uint8
from ddpm.sampling import samplers
from ddpm.sampling.catalogue import GRIDS, function
from ddpm.sampling.grids import uniform_grid
from ddpm.sampling.guidance import clipped

SEED = 1
CPU = torch.device("cpu")
T = 1000


def schedules(out: Path) -> None:
    """alpha_bar and log-SNR over t, of every schedule and of what the options make of one."""
    figure, axes = canvas(2, 2, (9.6, 6.6))
    t = torch.arange(1, T + 1)
    for name in SCHEDULES:
        draw_curves(axes[0], make_schedule(name, T), t, name)
    draw_curves(axes[1], make_schedule("cosine", T), t, "cosine")
    draw_curves(axes[1], make_schedule("cosine", T, shift=2), t, "cosine, shift 2")
    draw_curves(axes[1], make_schedule("linear", T), t, "linear")
    draw_curves(axes[1], make_schedule("linear", T, zero_terminal=True), t, "linear, zero terminal SNR")
    titles = ("the schedules", "what the options make of them")
    for row, title in zip(axes, titles, strict=True):
        row[0].set_title(f"ᾱ(t), {title}", fontsize=9)
        row[1].set_title(f"log SNR(t), {title}", fontsize=9)
        row[1].set_ylim(-16, 12)
        row[0].legend(fontsize=8, frameon=False)
        for axis in row:
            axis.set_xlabel("t", fontsize=8)
            axis.grid(alpha=0.25)
            axis.tick_params(labelsize=8)
    save(figure, out / "schedules.png")


def grids(out: Path) -> None:
    """At which noise levels each grid of 10 steps asks the network."""
    process = make_schedule("cosine", T)
    figure, ((axis,),) = canvas(1, 1, (9.6, 2.6))
    for row, name in enumerate(GRIDS):
        grid, options = function(GRIDS[name]), {"rho": 7.0} if name == "karras" else {}
        times = torch.tensor(grid(process, 10, **options)[:-1], dtype=torch.float64)
        levels = process.sigma(times) / process.alpha(times)
        axis.plot(levels.clamp(max=400), torch.full_like(levels, -row), "o", markersize=5)
    axis.set_yticks([-row for row in range(len(GRIDS))], list(GRIDS), fontsize=9)
    axis.set_xscale("log")
    axis.set_xlabel("noise level σ/α (what is above 400 is drawn there)", fontsize=8)
    axis.set_title("Where 10 evaluations of the network are spent, cosine schedule", fontsize=9)
    axis.grid(alpha=0.25)
    save(figure, out / "grids.png")


def forward(images: Tensor, out: Path) -> None:
    """x_t of the same digit and the same eps: variance-preserving and variance-exploding."""
    vp, ve = make_schedule("cosine", T), VarianceExploding(sigma_min=0.002, sigma_max=80.0)
    places = [0, 100, 250, 400, 550, 700, 850, 1000]
    levels = [0.0, 0.1, 0.3, 0.6, 1.2, 2.5, 8.0, 80.0]
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(SEED))
    rows = []
    for process, times in ((vp, places), (ve, levels)):
        rows.append([q_sample(process, images, samplers.at(t, images), eps) for t in times])
    figure, axes = canvas(2 * len(images), len(places), (9.6, 5.4))
    for kind, row in enumerate(rows):
        for column, x_t in enumerate(row):
            for k, x in enumerate(x_t):
                axis = axes[kind * len(images) + k][column]
                if kind:  # a VE process has no fixed range: each is shown on its own scale
                    x = x / x.abs().max()
                show(axis, to_uint8(x[None])[0])
                if k == 0:
                    title = f"t = {places[column]}" if kind == 0 else f"σ = {levels[column]:g}"
                    axis.set_title(title, fontsize=9)
    for kind, name in ((0, "variance\npreserving\n(cosine)"), (1, "variance\nexploding\n(scaled to\nbe seen)")):
        label(axes[kind * len(images)][0], name)
    save(figure, out / "forward.png")


def reverse(model: model_file.Model, out: Path) -> None:
    """The reverse process: x_t above, the network's estimate of x_0 in it below; DDPM, then DDIM from the same x_T."""
    process, shape = model.schedule, model.sample_shape
    labels = torch.tensor([2, 5])
    estimate = clipped(model.estimator())
    grid, shown = uniform_grid(process.T, 50), (0, 5, 15, 25, 32, 38, 44, 47, 49)

    def denoise(x_t: Tensor, t: Tensor) -> Estimate:
        return estimate(x_t, t, labels)

    figure, axes = canvas(8, len(shown), (9.6, 8.8))
    for part, name in enumerate(("DDPM", "DDIM, η = 0")):
        noise = PerImageNoise(SEED, range(2), shape, CPU)
        x_T = process.prior_std * noise()
        run = (
            samplers.ddpm(denoise, process, x_T, grid, noise, variance="small")
            if part == 0
            else samplers.ddim(denoise, process, x_T, grid, noise, eta=0.0)
        )
        x_t = x_T
        for k, step in enumerate(run):
            if k in shown:
                column = shown.index(k)
                for image in range(2):
                    row = 4 * part + 2 * image
                    last = k == shown[-1]
                    show(axes[row][column], to_uint8((step.x_t if last else x_t)[image : image + 1])[0])
                    show(axes[row + 1][column], to_uint8(step.x_0[image : image + 1])[0])
                if part == 0:
                    axes[0][column].set_title("t = 0" if k == shown[-1] else f"t = {grid[k]:g}", fontsize=9)
            x_t = step.x_t
        for image in range(2):
            label(axes[4 * part + 2 * image][0], f"{name}\nx_t")
            label(axes[4 * part + 2 * image + 1][0], "estimate\nof x_0")
    save(figure, out / "reverse.png")


def batch_of(model: model_file.Model, labels: Tensor | None, n: int) -> Batch:
    recipe = replace(neutral(sampler="ddim", steps=50), precision="float32")
    return Batch(model=model, recipe=recipe, seed=SEED, indices=range(n), condition=labels)


def restored(model: model_file.Model, images: Tensor, labels: Tensor, out: Path) -> None:
    """What each use makes of held-out digits, which the model has not seen."""
    n, size = len(images), images.shape[-1]
    batch = batch_of(model, None, n)
    of_class = batch_of(model, labels, n)
    x = to_model_range(images)
    kept = torch.ones(1, 1, size, size, dtype=torch.bool)
    kept[:, :, size // 2 :] = False
    pooled, blurred = operators.average_pooling(2), operators.gaussian_blur(size, width=1.0, smallest=0.02)
    small, soft = to_uint8(pooled.measure(x)), to_uint8(blurred.measure(x))
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED))
    noisy = to_uint8(x + 64 * LEVEL * eps)
    rows = {
        "held-out\ndigits": images,
        "lower half\nhidden": torch.where(kept, images, torch.full_like(images, 128)),
        "RePaint": picture_tasks.inpaint(batch, images, kept, steps=50, jump=5, resamplings=10),
        "RePaint,\nclass given": picture_tasks.inpaint(of_class, images, kept, steps=50, jump=5, resamplings=10),
        "half the\nsize": small.repeat_interleave(2, 2).repeat_interleave(2, 3),
        "DDNM": picture_tasks.restore(batch, small, pooled, steps=25),
        "DDNM,\nclass given": picture_tasks.restore(of_class, small, pooled, steps=25),
        "blurred": soft,
        "DDNM ": picture_tasks.restore(batch, soft, blurred, steps=25),
        "noise of 64\ngrey levels": noisy,
        "denoised": picture_tasks.denoise(batch, noisy, std=64, steps=25),
    }
    figure, axes = canvas(len(rows), n, (8.2, 9.2))
    for row, (name, made) in zip(axes, rows.items(), strict=True):
        label(row[0], name)
        for axis, image in zip(row, made, strict=True):
            show(axis, image)
    save(figure, out / "restoration.png")


def edited(model: model_file.Model, images: Tensor, labels: Tensor, out: Path) -> None:
    """SDEdit by strength towards the next class, and the way from one digit to another through noise."""
    strengths, n = (0.3, 0.45, 0.6, 0.75, 0.9), 10
    next_class = (labels + 1) % len(model.spec.classes)
    figure, axes = canvas(len(strengths) + 1 + 4, n, (8.2, 8.6))
    batch = batch_of(model, next_class, n)
    rows = [images, *(picture_tasks.edit(batch, images, strength=s, steps=50) for s in strengths)]
    names = ["held-out\ndigits", *(f"strength\n{s}" for s in strengths)]
    plain = batch_of(model, None, n)
    for a, b in ((0, 1), (3, 8), (2, 7), (5, 6)):
        ends = [images[k].expand(n, -1, -1, -1) for k in (a, b)]
        rows.append(picture_tasks.interpolate(plain, *ends, torch.linspace(0, 1, n), steps=25, iterations=6))
        names.append(f"from {a}\nto {b}")
    for row, name, made in zip(axes, names, rows, strict=True):
        label(row[0], name)
        for axis, image in zip(row, made, strict=True):
            show(axis, image)
    save(figure, out / "editing.png")


def draw_curves(axes: list[Axes], process: Process, t: Tensor, name: str) -> None:
    snr = process.snr(t).double()
    axes[0].plot(t, snr / (1 + snr), label=name)
    axes[1].plot(t, snr.log(), label=name)


def canvas(rows: int, columns: int, inches: tuple[float, float]) -> tuple[Figure, list[list[Axes]]]:
    figure = Figure(figsize=inches, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def show(axis: Axes, image: Tensor) -> None:
    axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])


def label(axis: Axes, name: str) -> None:
    axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
    print(f"{path} ({path.stat().st_size / 1000:.0f} kB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("model", "prepared", "out"):
        parser.add_argument(f"--{option}", type=Path, required=True)
    args = parser.parse_args()
    model, held_out = model_file.load(args.model), read_split(args.prepared, "test")
    assert held_out.labels is not None
    labels = torch.from_numpy(held_out.labels)
    chosen = [int((labels == k).nonzero()[1]) for k in range(len(model.spec.classes))]
    images = torch.stack([torch.from_numpy(held_out.images[k].copy()) for k in chosen])
    with torch.inference_mode():
        schedules(args.out)
        grids(args.out)
        forward(to_model_range(images[[3, 0]]), args.out)
        reverse(model, args.out)
        restored(model, images, labels[chosen], args.out)
        edited(model, images, labels[chosen], args.out)


if __name__ == "__main__":
    main()
