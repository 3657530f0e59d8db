"""The commands that generate images, from noise or from an input picture."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.cli.model import load
from ddpm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from ddpm.model_file import Model


def sample(args: argparse.Namespace) -> None:
    """Generate images with the champion, a version or a model file; write them as one grid or into a folder."""
    _require_free(args.out)
    model, model_name = load(args)
    from ddpm.serving import sample_request

    fields = {name: getattr(args, name) for name in sample_request.FIELDS} | {"label": _label(args, model)}
    request = sample_request.complete(fields, model, max_number=sys.maxsize)
    images = sample_request.draw(model, request, progress=sys.stderr.isatty())
    settings = sample_request.described(request, model)
    del settings["labels"]
    settings.pop("texts", None)
    _write(images, args.out, model_name, settings)


def inpaint(args: argparse.Namespace) -> None:
    """Repaint the part that is white in the mask; every other pixel keeps its exact value."""
    _picture(args, {"task": "inpaint", "mask": args.mask, "jump": args.jump, "resamplings": args.resamplings})


def restore(args: argparse.Namespace) -> None:
    """Restore a smaller, blurred, noisy or colourless picture."""
    own = {"super-resolution": (), "colourise": (), "deblur": ("blur",), "denoise": ("noise",)}
    for name in ("blur", "noise"):
        if getattr(args, name) is not None and name not in own[args.task]:
            raise UserError(f"--{name} is set, but the task {args.task} does not use it; leave it out")
    _picture(args, {"task": args.task} | {name: getattr(args, name) for name in own[args.task]})


def edit(args: argparse.Namespace) -> None:
    """Add noise to a picture and denoise it again."""
    _picture(args, {"task": "edit", "strength": args.strength})


def interpolate(args: argparse.Namespace) -> None:
    """Generate the images between two pictures."""
    _picture(args, {"task": "interpolate", "other": args.other})


def _picture(args: argparse.Namespace, fields: dict[str, Any]) -> None:
    _require_free(args.out)
    for picture in (args.image, fields.get("mask"), fields.get("other")):
        if picture is not None and args.out.exists() and picture.exists() and args.out.samefile(picture):
            raise UserError(f"{args.out} is an input picture, which --out would overwrite; name another file")
    model, model_name = load(args)
    from ddpm.serving import picture_request

    common = {name: getattr(args, name) for name in ("image", "number", "text", "seed", "steps", "guidance")}
    asked = fields | common | {"label": _label(args, model)}
    given = {name: value for name, value in asked.items() if value is not None}  # a model has no field for some options
    request = picture_request.complete(given, model, max_number=sys.maxsize)
    settings = {key: value for key, value in picture_request.described(request, model).items() if value is not None}
    with _evaluations_shown(model, picture_request.network_calls(request)):
        images = picture_request.draw(model, request)
    _write(images, args.out, model_name, settings)


@contextmanager
def _evaluations_shown(model: "Model", total: int) -> Iterator[None]:
    """Show a bar of the network's evaluations on a terminal."""
    from tqdm import tqdm

    with tqdm(total=total, desc="sampling", unit="evaluation", disable=not sys.stderr.isatty()) as bar:
        hook = model.network.register_forward_hook(lambda *_: bar.update() and None)
        try:
            yield
        finally:
            hook.remove()


def _label(args: argparse.Namespace, model: "Model") -> str | int | None:
    """Return --label: a string if it is the name of a class, a number if it is an index."""
    if isinstance(args.label, str) and args.label not in model.asked.classes and args.label.isdecimal():
        return int(args.label)
    return args.label


def _require_free(out: Path) -> None:
    if out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise UserError(f"{out} would be a {out.suffix} file, expected a .png file or a new folder; rename it")
    if out.suffix.lower() != ".png" and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} already exists and is not an empty folder; name a new folder or a .png file")


def _write(images: "Tensor", out: Path, model_name: str, settings: dict[str, Any]) -> None:
    from ddpm.generation.grid import grid
    from ddpm.serving.sample_request import as_picture

    if out.suffix.lower() == ".png":
        out.parent.mkdir(parents=True, exist_ok=True)
        grid(images, columns=max(1, round(len(images) ** 0.5))).save(out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        for k, image in enumerate(images):
            as_picture(image).save(out / f"{k:06d}.png")
    listed = ", ".join(f"{key} {value}" for key, value in settings.items())
    number = "1 image" if len(images) == 1 else f"{len(images)} images"
    print(f"{number} of {model_name} in {out} ({listed})")
