"""Draw generated images and their nearest training images, so that a person can judge copies."""

from pathlib import Path

import numpy as np

from ddpm.images import Images
from ddpm.measuring.memorization import CopiesInEveryWay

COLUMNS = 10


def draw_neighbours(path: Path, *, generated: Images, train: Images, copies: CopiesInEveryWay) -> None:
    """Write a PNG of the generated images that are most similar to a training image, and of the first ones.

    Below each image are its nearest training images by each comparison, with their distances;
    red: the distance is at most the limit, so the image counts as a copy.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ways = {
        "by pixels": copies.pixels,
        "by features": copies.features,
        "if shifted": copies.shifted,
        "if mirrored": copies.mirrored,
        "by halves": copies.half,
    }
    n = min(COLUMNS, len(generated))
    counted = np.sum([found.is_copy for found in ways.values()], axis=0)
    groups = {
        "the most suspicious: copies in the most ways, then nearest by pixels": np.lexsort(
            (copies.pixels.nearest.distance, -counted)
        )[:n],
        "the first generated images": np.arange(n),
    }
    figure = Figure(figsize=(1.15 * n + 1.6, 18.7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{len(generated)} generated images and the training images nearest to them, with distances (red: a copy)\n"
        + "\n".join(
            f"{way}: copies {found.share:.1%} (held-out real images: {found.held_out_share:.1%}), "
            f"limit {found.limit:.3g}"
            for way, found in ways.items()
        ),
        fontsize=10,
    )
    parts = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for part, (title, shown) in zip(parts, groups.items(), strict=True):
        part.suptitle(title, fontsize=10, fontweight="bold", x=0.02, ha="left")
        axes = part.subplots(1 + len(ways), n, squeeze=False)
        for column, k in enumerate(shown):
            _show(axes[0][column], generated[k], f"no. {k}", "black")
            for row, found in enumerate(ways.values(), start=1):
                at = f"{found.nearest.distance[k]:.3g}"
                color = "red" if found.is_copy[k] else "black"
                _show(axes[row][column], train[found.nearest.index[k]], at, color)
        for row, name in enumerate(("generated", *(f"training,\nnearest {way}" for way in ways))):
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
