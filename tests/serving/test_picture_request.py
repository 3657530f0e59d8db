"""Requests with a picture: what is kept, what is found again, and what is refused."""

import base64
import dataclasses
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipe import recipe
from torch import Tensor

from ddpm import model_file
from ddpm.data.preparing.decode_file import decode
from ddpm.data.preparing.formats import READ
from ddpm.data.preparing.picture_file import Reading
from ddpm.data.preparing.pixels import Target
from ddpm.degrading import operators
from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.serving.picture_request import TASKS, complete, described, draw
from ddpm.serving.sample_request import as_picture
from ddpm.settings import as_dict


def picture(channels: int = 1, size: int = 8, seed: int = 0) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randint(256, (channels, size, size), dtype=torch.uint8, generator=drawn)


def encoded(image: Tensor, kind: str = "PNG") -> str:
    file = io.BytesIO()
    as_picture(image).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Model:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny_model(path)
    return model_file.load(path)


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Model:
    path = tmp_path_factory.mktemp("colour") / "model.safetensors"
    tiny_model(path, channels=3, classes=[])
    return model_file.load(path)


GIVEN = encoded(picture())
OTHER = encoded(picture(seed=1))
HALF = torch.zeros(1, 8, 8, dtype=torch.uint8)
HALF[:, 4:] = 255


@pytest.mark.parametrize("channels", [1, 3])
def test_what_the_mask_leaves_black_comes_back_to_the_bit(model: Model, colour_model: Model, channels: int) -> None:
    image = picture(channels)
    request = complete(
        {"task": "inpaint", "image": encoded(image), "mask": encoded(HALF), "number": 3, "steps": 6, "jump": 2},
        model if channels == 1 else colour_model,
    )
    painted = draw(model if channels == 1 else colour_model, request)
    assert painted.shape == (3, channels, 8, 8)
    assert torch.equal(painted[:, :, :4], image[None, :, :4].expand(3, -1, -1, -1))
    assert not torch.equal(painted[0, :, 4:], painted[1, :, 4:])


@pytest.mark.parametrize("task", ["super-resolution", "colourise"])
def test_a_restored_image_has_the_measurement_that_was_given_to_the_bit(task: str, colour_model: Model) -> None:
    """All grey levels, so that an untrained network's estimate is far out of the range in many pixels."""
    given, operator = {
        "super-resolution": (picture(3, size=4), operators.average_pooling(2)),
        "colourise": (picture(1), operators.grey()),
    }[task]
    made = draw(colour_model, complete({"task": task, "image": encoded(given), "number": 3}, colour_model))
    again = operator.measure(made.double()).round(decimals=6)
    assert torch.equal(again, given.double().expand_as(again))


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "edit", "strength": 0.4, "label": 2, "guidance": 1.5},
        {"task": "denoise", "noise": 30},
        {"task": "deblur", "blur": 1.0},
        {"task": "inpaint", "mask": encoded(HALF), "steps": 5, "resamplings": 2},
        {"task": "interpolate", "other": OTHER, "steps": 5, "number": 3},
        {"task": "super-resolution", "image": encoded(picture(size=2))},
    ],
    ids=lambda fields: fields["task"],
)
def test_the_same_request_gives_the_same_images_and_says_what_it_was(model: Model, fields: dict[str, Any]) -> None:
    fields = {"image": GIVEN} | fields
    first = complete(fields, model)
    said = described(first, model)
    again = complete(fields | said, model)
    assert torch.equal(draw(model, first), draw(model, again))
    assert said["task"] == fields["task"]


def test_between_two_images_the_ends_are_the_images(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    """A network that says v = 0 is the exact denoiser of N(0, 1)."""
    tiny_model(tmp_path / "m.safetensors")
    model = model_file.load(tmp_path / "m.safetensors")
    for parameter in model.network.parameters():
        parameter.zero_()
    a, b = picture() // 4 + 96, picture(seed=1) // 4 + 96
    request = {"task": "interpolate", "image": encoded(a), "other": encoded(b), "number": 5, "steps": 10}
    made = draw(model, complete(request, model))
    assert torch.equal(made[0], a)
    assert torch.equal(made[4], b)
    towards = [(image.int() - b.int()).abs().sum() for image in made]
    assert towards == sorted(towards, reverse=True)


def test_a_picture_of_another_mode_becomes_the_model_s(model: Model) -> None:
    palette = io.BytesIO()
    as_picture(picture(3)).convert("P").save(palette, "PNG")
    text = base64.b64encode(palette.getvalue()).decode()
    assert complete({"task": "edit", "image": text}, model).image.shape == (1, 8, 8)


def _saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def _of_every_kind(folder: Path) -> Iterator[Path]:
    """8x8 pictures that decode differently where not the same function reads them."""
    ramp = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    grey = Image.fromarray((ramp >> 8).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    see_through = grey.convert("RGBA")
    see_through.putalpha(Image.fromarray((ramp.T >> 8).astype(np.uint8)))
    yield _saved(Image.fromarray(ramp), folder / "deep.png")
    yield _saved(Image.fromarray(ramp), folder / "deep.tif")
    yield _saved(Image.fromarray((ramp / 65535).astype(np.float32)), folder / "float.tif")
    yield _saved(see_through, folder / "see_through.png")
    yield _saved(see_through, folder / "see_through.webp", lossless=True, exact=True)
    yield _saved(grey.convert("P"), folder / "palette.gif", transparency=4)
    yield _saved(grey, folder / "turned.png", exif=turned)
    yield _saved(grey.convert("CMYK"), folder / "cmyk.tif")
    yield _saved(grey.convert("1"), folder / "one_bit.png")


def test_a_picture_is_decoded_as_the_prepared_images_were(tmp_path: Path, model: Model, colour_model: Model) -> None:
    reading = Reading(max_pixels=10**6, max_bytes=10**8, white=None)
    for path in _of_every_kind(tmp_path):
        for channels, asked in ((1, model), (3, colour_model)):
            records, prepared = decode([str(path)], Target(size=8, channels=channels, fit="crop"), reading)
            assert records["reason"][0] == 0, path.name
            sent = complete({"task": "edit", "image": base64.b64encode(path.read_bytes()).decode()}, asked)
            assert sent.image.tolist() == prepared[0].tolist(), path.name


def _written_by_pillow(folder: Path) -> dict[str, bytes]:
    """An 8x8 picture in every format that Pillow writes, by the format's name, and an EPS that names a file to make."""
    Image.init()
    written = {}
    for kind in Image.SAVE:
        for mode in ("RGB", "L", "1"):
            stream = io.BytesIO()
            try:
                Image.new(mode, (8, 8)).save(stream, kind)
            except Exception:  # needs a plugin, or cannot hold this mode
                continue
            written[kind] = stream.getvalue()
            break
    written["EPS"] = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({folder}/made) (w) file\n".encode()
    return written


def test_a_format_that_preparation_does_not_read_is_refused_and_runs_nothing(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/made\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    started: list[str] = []
    sys.addaudithook(lambda event, args: started.append(event) if event in _STARTS else None)
    written = _written_by_pillow(tmp_path)
    assert {"EPS", "DDS", "PDF"} <= set(written) - set(READ)
    for kind in set(written) - set(READ):
        with pytest.raises(UserError, match=r"image cannot be read as a picture \("):
            complete({"task": "edit", "image": base64.b64encode(written[kind]).decode()}, model)
    assert started == []
    assert not (tmp_path / "made").exists()


_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")


def test_a_picture_of_another_size_is_refused_before_its_pixels_are_decoded(model: Model) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (4000, 4000)).save(file, "PNG")
    broken = base64.b64encode(file.getvalue()[:200]).decode()
    with pytest.raises(UserError, match=r"^image is 4000x4000 pixels, expected 8x8"):
        complete({"task": "edit", "image": broken}, model)


def test_a_picture_may_take_what_its_size_takes_and_no_more(model: Model) -> None:
    """Calls come side by side, each with a tile of 9 MB in 10 KB, of which 8x8 pixels are cut out."""
    side, place = 3000, 8
    pixels = zlib.compress(bytes(side * side))
    tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: place, 325: len(pixels)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", place + len(pixels))
    file = header + pixels + struct.pack("<H", len(tags)) + directory + bytes(4)
    with pytest.raises(UserError, match=r"^image cannot be read as a picture \(.*memory"):
        complete({"task": "edit", "image": base64.b64encode(file).decode()}, model)


def test_a_path_is_read_where_there_are_files(model: Model, tmp_path: Path) -> None:
    as_picture(picture()).save(tmp_path / "a.png")
    assert torch.equal(complete({"task": "edit", "image": tmp_path / "a.png"}, model).image, picture())
    with pytest.raises(UserError, match=r"^image is .*nowhere\.png, which cannot be read"):
        complete({"task": "edit", "image": tmp_path / "nowhere.png"}, model)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"task": "paint"}, "task is 'paint', expected sample or one of inpaint, super-resolution"),
        ({"task": "edit"}, "image is missing; add a picture"),
        ({"task": "edit", "image": 3}, "image is a int, expected a picture's file in base64"),
        ({"task": "edit", "image": "no base64!"}, "image is not valid base64"),
        ({"task": "edit", "image": base64.b64encode(b"text").decode()}, "image cannot be read as a picture"),
        ({"task": "edit", "image": GIVEN[: len(GIVEN) // 2 // 4 * 4]}, "image "),
        ({"task": "edit", "image": "A" * (12 * 2**20)}, "expected a picture of at most 8388608 bytes"),
        ({"task": "edit", "image": encoded(picture(size=9))}, "image is 9x9 pixels, expected 8x8"),
        ({"task": "edit", "image": GIVEN, "strength": 1.5}, "strength is 1.5, expected a number from 0.01 to 1"),
        ({"task": "edit", "image": GIVEN, "mask": GIVEN}, "'mask' is not a known field"),
        ({"task": "edit", "image": GIVEN, "steps": 51}, "steps is 51"),
        ({"task": "edit", "image": GIVEN, "guidance": 2.0}, "the request has no label"),
        ({"task": "edit", "image": GIVEN, "label": "dog"}, "label is 'dog'"),
        ({"task": "inpaint", "image": GIVEN}, "mask is missing; add a picture"),
        ({"task": "inpaint", "image": GIVEN, "mask": encoded(picture(size=4))}, "mask is 4x4 pixels, expected 8x8"),
        ({"task": "inpaint", "image": GIVEN, "mask": GIVEN, "jump": 2.5}, "jump is 2.5, expected a whole number"),
        ({"task": "super-resolution", "image": GIVEN}, "expected one of 4x4, 2x2, 1x1 to become 8x8"),
        ({"task": "super-resolution", "image": encoded(picture(size=3))}, "image is 3x3 pixels"),
        ({"task": "deblur", "image": GIVEN}, "blur is missing; set it to a number from 0.1 to 8"),
        ({"task": "denoise", "image": GIVEN}, "noise is missing; set it to a number from 0.5 to 1000"),
        ({"task": "colourise", "image": GIVEN}, "this model's images are grey"),
        ({"task": "interpolate", "image": GIVEN, "other": OTHER, "number": 1}, "number is 1, expected a whole number"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(model: Model, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        complete(fields, model)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_label_dropout_asks_for_a_label(
    tmp_path: Path, tiny_model: Callable[..., str], model: Model
) -> None:
    tiny_model(tmp_path / "m.safetensors", unconditional=False)
    labelled = model_file.load(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="label is missing: this model was trained without label dropout"):
        complete({"task": "edit", "image": GIVEN}, labelled)
    assert complete({"task": "edit", "image": GIVEN, "label": 1}, labelled).label == 1


def test_grey_becomes_colour_with_the_same_grey(colour_model: Model) -> None:
    grey = picture() // 8 + 112
    made = draw(colour_model, complete({"task": "colourise", "image": encoded(grey)}, colour_model))
    inside = ((made > 0) & (made < 255)).all(dim=1, keepdim=True)
    difference = made.float().mean(dim=1, keepdim=True) - grey[None].float()
    assert inside.any()
    assert (difference * inside).abs().max() <= 1
    assert len({tuple(channel) for channel in made.flatten(2)[0].tolist()}) == 3


def test_every_task_has_a_command() -> None:
    from ddpm.cli import parser

    for task in TASKS:
        words = {
            "inpaint": ["inpaint", "--mask", "m.png"],
            "edit": ["edit"],
            "interpolate": ["interpolate", "--other", "o.png"],
        }.get(task, ["restore", "--task", task])
        parser().parse_args([*words, "--image", "i.png", "--out", "o"])


def test_guidance_and_bounds_of_the_recipe_hold_for_pictures_too(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "m.safetensors", recipe={"sampler": "ddim", "steps": 5, "guidance": 3.0, "threshold": 0.9})
    own = model_file.load(tmp_path / "m.safetensors")
    Image.linear_gradient("L").resize((8, 8)).save(tmp_path / "a.png")
    fields = {"task": "edit", "image": tmp_path / "a.png", "label": 1, "seed": 1, "steps": 4}
    asked = complete(fields, own)
    assert asked.recipe.guidance == 3.0
    assert complete({name: v for name, v in fields.items() if name != "label"}, own).recipe.guidance == 1.0
    clipped = dataclasses.replace(own, recipe=as_dict(recipe(guidance=3.0)))
    assert not torch.equal(draw(own, asked), draw(clipped, complete(fields, clipped)))
