"""Draw generated and held-out images and their nearest training images, so that a person can judge copies."""

import math
from pathlib import Path

import numpy as np

from ddpm.images import Images
from ddpm.measuring.memorization import CopiesInEveryWay

COLUMNS = 10


def draw_neighbours(
    path: Path, *, generated: Images, held_out: Images, train: Images, copies: CopiesInEveryWay
) -> None:
    """Write a PNG of generated images with their nearest training images, and of held-out images with theirs.

    The generated images are those most similar to a training image, and the first ones. The first held-out images,
    which no model has seen, show how similar an image that is no copy is to its nearest training image. Below each
    image are its nearest training images by each comparison, with their distances; red: the distance is at most the
    limit, so the image counts as a copy.
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
    columns = min(COLUMNS, len(generated), len(held_out))
    counted = np.sum([found.is_copy for found in ways.values()], axis=0)
    suspicious = np.lexsort((copies.pixels.nearest.distance, -counted))[:columns]
    first = np.arange(columns)
    made, real = ({name: getattr(found, which) for name, found in ways.items()} for which in ("nearest", "held_out"))
    groups = [
        (
            "generated, the most suspicious: copies in the most ways, then nearest by pixels",
            generated,
            suspicious,
            made,
        ),
        ("generated, the first ones", generated, first, made),
        (
            "real images that were held out, the first ones: neighbours that are no copies look like this",
            held_out,
            first,
            real,
        ),
    ]
    rows = 1 + len(ways)
    figure = Figure(figsize=(1.1 * columns + 2.2, 2.1 + len(groups) * (1.1 * rows + 0.5)))
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{len(generated)} generated images and the training images nearest to them, with distances.\n"
        "Red: a copy, nearer to a training image than nearly all held-out real images are. Black: no copy.\n"
        + "\n".join(
            f"{way}: copies {found.share:.1%} (held-out real images: {found.held_out_share:.1%}), "
            f"limit {found.limit:.3g}"
            for way, found in ways.items()
        ),
        fontsize=10,
    )
    top = 1 - 1.9 / figure.get_figheight()
    all_axes = figure.subplots(
        len(groups),
        1,
        squeeze=False,
        gridspec_kw={"left": 0.16, "right": 0.99, "bottom": 0.005, "top": top, "hspace": 0.06},
    )
    # One image for each group: as many axes as small images would take seconds.
    for axes, (title, images, shown, nearest) in zip(all_axes[:, 0], groups, strict=True):
        pictures = [[images[k] for k in shown], *([train[found.index[k]] for k in shown] for found in nearest.values())]
        height, width = images.shape[2:]
        margin = max(2, math.ceil(0.3 * height))
        mosaic = np.full((rows * (height + margin), columns * (width + margin), images.shape[1]), 255, np.uint8)
        for row, line in enumerate(pictures):
            name = "image" if row == 0 else f"training,\nnearest {list(ways)[row - 1]}"
            y = row * (height + margin)
            axes.text(-1, y + height / 2, name, ha="right", va="center", fontsize=9)
            for column, picture in enumerate(line):
                x = column * (width + margin)
                mosaic[y : y + height, x : x + width] = np.asarray(picture).transpose(1, 2, 0)
                caption, color = f"no. {shown[column]}", "black"
                if row:
                    way = list(ways)[row - 1]
                    distance = nearest[way].distance[shown[column]]
                    caption, color = f"{distance:.3g}", "red" if distance <= ways[way].limit else "black"
                axes.text(x + width / 2, y + height, caption, ha="center", va="top", fontsize=8, color=color)
        axes.imshow(mosaic[:, :, 0] if mosaic.shape[2] == 1 else mosaic, cmap="gray", vmin=0, vmax=255)
        axes.set_title(title, fontsize=10, fontweight="bold", loc="left")
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
