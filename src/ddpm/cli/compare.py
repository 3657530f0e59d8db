"""The command that puts two versions side by side: grids of the same seeds, metrics, and differing settings."""

import argparse
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.cli.model import load_version, registered_name
from ddpm.cli.registry import print_table
from ddpm.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ddpm.promotion.registry import Version


def compare(args: argparse.Namespace) -> None:
    """Sample both versions with the same seed and labels; print, write and keep the comparison."""
    from ddpm.promotion.registry import version
    from ddpm.reporting import comparison, training_again
    from ddpm.tracking.comparisons import keep
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    if args.number_a == args.number_b:
        raise UserError(f"both versions are {args.number_a}; name two different ones of `ddpm versions`")
    registry = MlflowRegistry(registered_name(args))
    a, b = (version(registry, number) for number in (args.number_a, args.number_b))
    picture = args.out or Path(f"compare-{a.number}-{b.number}.png")
    if picture.suffix.lower() != ".png" or not picture.parent.is_dir():
        raise UserError(f"{picture} is not a .png file in a folder that exists; name one with --out")
    seed = secrets.randbelow(2**32) if args.seed is None else args.seed
    _side_by_side([_grid(args, each, seed) for each in (a, b)], [f"version {each.number}" for each in (a, b)]).save(
        picture
    )
    sampled = f"{args.number} images of each version with seed {seed}, each by its own sampling settings"
    page = picture.with_suffix(".md")
    again = training_again.read()
    text = comparison.page(a, b, picture=picture.name, sampled=sampled, again=again)
    page.write_text(f"{text}\n", encoding="utf-8")

    for protocol, table in comparison.metrics_tables(a, b, again):
        print(protocol)
        print_table(table)
        print()
    print(f"{comparison.training_again_sentence(a, b, again)}\n")
    differing = comparison.differences(a, b)
    if differing.rows:
        print_table(differing)
    else:
        print("their known settings are equal")
    kept = keep((a, b), (picture, page))
    print(f"\n{picture} and {page}: {sampled}")
    print(
        f"kept in MLflow: folder `comparisons` of the run{'s' if len(kept) > 1 else ''} {' and '.join(kept) or 'none'}"
    )


def _grid(args: argparse.Namespace, of: "Version", seed: int) -> "Image":
    from ddpm.generation.grid import grid
    from ddpm.serving import sample_request

    model = load_version(of, args.device)
    request = sample_request.complete({"number": args.number, "seed": seed}, model, max_number=sys.maxsize)
    images = sample_request.draw(model, request, progress=sys.stderr.isatty())
    return grid(images, columns=max(1, round(args.number**0.5)))


def _side_by_side(grids: "list[Image]", titles: list[str]) -> "Image":
    """Return the grids beside each other in colour or grey, with a title above each."""
    from PIL import Image, ImageDraw, ImageFont

    gap, head = 16, 28
    width = sum(grid.width for grid in grids) + gap * (len(grids) - 1)
    whole = Image.new("RGB", (width, head + max(grid.height for grid in grids)), "white")
    x = 0
    for grid, title in zip(grids, titles, strict=True):
        ImageDraw.Draw(whole).text((x + 4, 4), title, fill="black", font=ImageFont.load_default(16))
        whole.paste(grid.convert("RGB"), (x, head))
        x += grid.width + gap
    return whole
