"""A picture of generated images beside the training images nearest to them, for the eye to judge copies."""

from pathlib import Path

import numpy as np

from ddpm.evaluation.memorization import Copies
from ddpm.images import Images

COLUMNS = 10


def draw_neighbours(path: Path, *, generated: Images, train: Images, by_pixels: Copies, by_features: Copies) -> None:
    """A PNG of the generated images that are most like a training image, and of the first ones as they came.

    Under each stand its nearest training images, by pixels and by features, with their distances;
    red: no further than the limit, so that it counts as a copy.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = min(COLUMNS, len(generated))
    groups = {
        "the most suspicious: nearest to a training image": np.argsort(by_pixels.nearest.distance, kind="stable")[:n],
        "the first ones, as they came": np.arange(n),
    }
    figure = Figure(figsize=(1.15 * n + 1.6, 9.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"Generated images and the training images nearest to them, with distances (red: a copy)\n"
        f"by pixels: copies {by_pixels.share:.1%} of {len(generated)} (held-out real images: "
        f"{by_pixels.held_out_share:.1%}), limit {by_pixels.limit:.3g} grey levels   ·   "
        f"by features: copies {by_features.share:.1%} (real: {by_features.held_out_share:.1%}), "
        f"limit {by_features.limit:.3g}",
        fontsize=10,
    )
    parts = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for part, (title, shown) in zip(parts, groups.items(), strict=True):
        part.suptitle(title, fontsize=10, fontweight="bold", x=0.02, ha="left")
        axes = part.subplots(3, n, squeeze=False)
        for column, k in enumerate(shown):
            _show(axes[0][column], generated[k], f"no. {k}", "black")
            for row, copies in ((1, by_pixels), (2, by_features)):
                at = f"{copies.nearest.distance[k]:.3g}"
                color = "red" if copies.is_copy[k] else "black"
                _show(axes[row][column], train[copies.nearest.index[k]], at, color)
        for row, name in enumerate(("generated", "training,\nnearest by pixels", "training,\nnearest by features")):
            axes[row][0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def _show(axes, image: np.ndarray, caption: str, color: str) -> None:  # type: ignore[no-untyped-def]
    pixels = np.asarray(image).transpose(1, 2, 0)
    axes.imshow(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels, cmap="gray", vmin=0, vmax=255)
    axes.set_xlabel(caption, fontsize=8, color=color, labelpad=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(color if color == "red" else "none")
