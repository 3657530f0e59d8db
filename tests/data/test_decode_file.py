"""An image of any mode and size gets the prepared shape, and any other file is rejected with its reason."""

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddpm.data.preparing.decode_file import decode
from ddpm.data.preparing.picture_file import Reading, pixel_limit
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.reasons import (
    DAMAGED,
    EMPTY,
    NEARLY_BLACK,
    NO_IMAGE,
    REASONS,
    SPECIAL_FILE,
    TOO_LARGE,
    UNKNOWN_VALUES,
    UNREADABLE,
)

GREY = Target(size=8, channels=1, fit="crop")
RGB = Target(size=8, channels=3, fit="crop")
READING = Reading(max_pixels=1_000_000, max_bytes=100_000_000, white=None)
RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path, target: Target = RGB) -> np.ndarray:
    records, images = decode([str(path)], target, READING)
    assert records["reason"][0] == 0, REASONS[records["reason"][0] - 1]
    return images[0]


def reason(path: Path, **changes: Any) -> str:
    records, images = decode([str(path)], RGB, replace(READING, **changes))
    assert len(images) == 0
    return REASONS[records["reason"][0] - 1]


def test_grey_stays_grey_in_one_channel_and_three(tmp_path: Path) -> None:
    path = save(Image.fromarray(RAMP), tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(path, GREY), RAMP[None])
    np.testing.assert_array_equal(pixels(path, RGB), np.stack([RAMP] * 3))


def test_rgb_is_kept_exactly_and_becomes_luma_in_one_channel(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    path = save(Image.fromarray(colours), tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(path), colours.transpose(2, 0, 1))
    luma = colours @ [0.299, 0.587, 0.114]
    assert np.abs(pixels(path, GREY)[0] - luma).max() <= 0.6


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_over_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (8, 8), (0,) * (len(mode) - 1) + (0,))
    image.paste((0,) * (len(mode) - 1) + (255,), (0, 0, 4, 8))
    found = pixels(save(image, tmp_path / "a.png"), GREY)[0]
    assert (found[:, :4] == 0).all()
    assert (found[:, 4:] == 255).all()


def test_a_palette_gives_its_colours_and_its_transparent_entry_white(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 200, 0])
    image.paste(0, (0, 0, 4, 8))
    found = pixels(save(image, tmp_path / "a.png", transparency=0))
    assert found[:, 0, 0].tolist() == [255, 255, 255]
    assert found[:, 0, 7].tolist() == [0, 200, 0]


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (8, 8), 0)
    image.paste(1, (0, 0, 4, 8))
    found = pixels(save(image, tmp_path / "a.png"), GREY)[0]
    assert (found[0] == [255] * 4 + [0] * 4).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_and_not_cut_off(tmp_path: Path, suffix: str) -> None:
    deep = RAMP.astype(np.uint16) * 257
    np.testing.assert_array_equal(pixels(save(Image.fromarray(deep), tmp_path / f"a.{suffix}"), GREY)[0], RAMP)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_12_bits_in_a_16_bit_file_are_rejected_or_scaled_by_the_white_setting(tmp_path: Path, suffix: str) -> None:
    twelve = np.rint(RAMP * (4095 / 255)).astype(np.uint16)
    path = save(Image.fromarray(twelve), tmp_path / f"a.{suffix}")
    assert reason(path) == NEARLY_BLACK
    records, images = decode([str(path)], GREY, replace(READING, white=4095))
    assert records["reason"][0] == 0
    np.testing.assert_array_equal(images[0, 0], RAMP)
    records, images = decode([str(path)], GREY, replace(READING, white=65535))
    assert images.max() == 16
    assert reason(path, white=1000) == UNKNOWN_VALUES


def test_16_bit_colour_with_12_bit_values_is_rejected(tmp_path: Path) -> None:
    for level, expected in ((4095, NEARLY_BLACK), (4096 * 15, None), (0, None)):
        rows = b"".join(b"\0" + struct.pack(">3H", level, level // 2, 0) * 8 for _ in range(8))
        (tmp_path / "a.png").write_bytes(png(8, 8, rows, depth=16, colour=2))
        if expected:
            assert reason(tmp_path / "a.png") == expected
        else:
            assert pixels(tmp_path / "a.png")[:, 0, 0].tolist() == [level >> 8, level >> 9, 0]


def test_a_tiff_with_12_bits_per_sample_is_scaled_by_its_own_white(tmp_path: Path) -> None:
    tags = ((256, 3, 8), (257, 3, 8), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 200), (277, 3, 1), (279, 4, 96))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + b"\xff\xf8\x00" * 32)  # 4095 and 2048 in turn
    assert pixels(tmp_path / "a.tif", GREY)[0, 0].tolist() == [255, 128] * 4


def test_white_as_stored_in_the_file_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 4095\n" + struct.pack(">64H", *([0, 4095] * 32)))
    assert pixels(tmp_path / "a.pgm", GREY)[0, 0].tolist() == [0, 255] * 4


def test_floats_from_0_to_1_are_scaled_and_others_are_rejected(tmp_path: Path) -> None:
    path = save(Image.fromarray((RAMP / 255).astype(np.float32)), tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels(path, GREY)[0], RAMP)
    assert reason(save(Image.fromarray(RAMP.astype(np.float32)), tmp_path / "b.tif")) == UNKNOWN_VALUES


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    found = pixels(save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=95))
    assert found[0].min() > 240
    assert found[1:].max() < 15


@pytest.mark.parametrize("target", [GREY, RGB])
def test_lab_becomes_rgb_or_grey(tmp_path: Path, target: Target) -> None:
    path = save(Image.new("LAB", (8, 8), (255, 128, 128)), tmp_path / "a.tif")
    assert pixels(path, target).min() > 250


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_orientation_of_exif_is_applied(tmp_path: Path, suffix: str) -> None:
    upright = np.zeros((16, 32), np.uint8)
    upright[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees, clockwise
    path = save(Image.fromarray(upright), tmp_path / f"a.{suffix}", exif=exif)
    found = pixels(path, Target(size=8, channels=1, fit="pad"))[0]
    assert found[:4, 2:6].min() > 200  # what was left is on top now, in an upright image with bars left and right
    assert found[4:].max() < 55


def test_an_animation_becomes_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), level) for level in (50, 200)]
    for suffix, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True})):
        path = save(frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
        assert np.abs(pixels(path, GREY).astype(int) - 50).max() <= 1


def test_crop_takes_the_centre_exactly_where_no_scaling_is_needed(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, (8, 13), np.uint8)
    path = save(Image.fromarray(wide), tmp_path / "a.png")
    np.testing.assert_array_equal(pixels(path, GREY)[0], wide[:, 2:10])


@pytest.mark.parametrize(("mode", "bar"), [("L", 0), ("RGB", 0), ("LA", 255), ("RGBA", 255)])
def test_pad_keeps_the_whole_image_between_bars(tmp_path: Path, mode: str, bar: int) -> None:
    image = Image.new("L", (16, 8), 100).convert(mode)
    if bar:
        image.putalpha(Image.fromarray(np.tile(np.uint8([254, 255]), (8, 8))))
    found = pixels(save(image, tmp_path / "a.png"), Target(size=16, channels=3, fit="pad"))
    assert (found[:, :4] == bar).all()
    assert (found[:, 12:] == bar).all()
    assert np.abs(found[:, 4:12].astype(int) - 100).max() <= 1


def test_a_line_of_one_pixel_survives_padding(tmp_path: Path) -> None:
    path = save(Image.new("L", (500, 1), 255), tmp_path / "a.png")
    assert pixels(path, Target(size=8, channels=1, fit="pad")).max() == 255


def test_scaling_down_averages_instead_of_picking(tmp_path: Path) -> None:
    checks = np.indices((512, 512)).sum(0) % 2 * 255
    for suffix in ("png", "jpg"):
        found = pixels(save(Image.fromarray(checks.astype(np.uint8)), tmp_path / f"a.{suffix}"), GREY)
        assert np.abs(found.astype(int) - 128).max() < 6, suffix


def test_records_describe_the_file_and_the_prepared_pixels(tmp_path: Path) -> None:
    path = save(Image.fromarray(RAMP).resize((20, 10)).convert("P"), tmp_path / "a.png")
    records, images = decode([str(path)], GREY, READING)
    assert (records["width"][0], records["height"][0], records["mode"][0]) == (20, 10, b"P")
    assert records["mean"][0] == pytest.approx(images[0].mean())
    assert records["std"][0] == pytest.approx(images[0].std(), rel=1e-5)


def test_text_is_rejected_as_no_image_and_an_empty_file_as_empty(tmp_path: Path) -> None:
    for name, content, expected in (("a.jpg", b"hello", NO_IMAGE), ("b.png", b"", EMPTY)):
        (tmp_path / name).write_bytes(content)
        assert reason(tmp_path / name) == expected


FLI = struct.pack("<IHHHHHH", 128, 0xAF12, 1, 8, 8, 8, 0).ljust(128, b"\0")
FLOAT_COLOUR = struct.pack("<2sHIH", b"II", 42, 8, 9) + b"".join(
    struct.pack("<HHII", tag, kind, count, value)
    for tag, kind, count, value in (
        *((256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 3, 130), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 4, 1, 142), (277, 3, 1, 3), (279, 4, 1, 12), (339, 3, 3, 136)),
    )
)
FLOAT_COLOUR = FLOAT_COLOUR.ljust(130, b"\0") + struct.pack("<6H", 32, 32, 32, 3, 3, 3) + struct.pack("<3f", 1, 0, 0)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9", "EPS"),
        (b"DDS " + bytes(124), "DDS"),
        (FLI, "FLI"),
        (FLOAT_COLOUR, "TIFF"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIF"),
        (b"8BPS\0\1" + bytes(20), "PSD"),
        (b"\0\0\0\x1cftypavif" + bytes(20), "AVIF"),
        (b"%PDF-1.7\n", "PDF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert reason(tmp_path / "a.png") == f"a format that is not read ({name})"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif"])
def test_a_truncated_file_is_rejected_with_its_reason(tmp_path: Path, suffix: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(Image.fromarray(colours), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason(path) == DAMAGED


def test_what_cannot_be_opened_is_unreadable_and_a_pipe_does_not_block(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert reason(tmp_path / "pipe.png") == SPECIAL_FILE
    assert reason(tmp_path / "gone.png") == UNREADABLE


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0) -> bytes:
    """Return a PNG with this header and these rows, which may be fewer than the header declares."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header declares width x height pixels."""
    return png(width, height, b"")


def test_a_pixel_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bomb(100_000, 100_000))
    assert reason(tmp_path / "a.png") == TOO_LARGE


def test_the_limit_is_max_pixels_itself(tmp_path: Path) -> None:
    path = save(Image.new("L", (10, 10)), tmp_path / "a.png")
    assert reason(path, max_pixels=99) == TOO_LARGE
    assert len(decode([str(path)], GREY, replace(READING, max_pixels=100))[1]) == 1


def test_a_bomb_inside_an_icon_is_refused_too(tmp_path: Path) -> None:
    inner = bomb(50_000, 50_000)
    directory = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    (tmp_path / "a.ico").write_bytes(directory + inner)
    assert reason(tmp_path / "a.ico") == TOO_LARGE


def test_the_pixel_limit_ends_with_its_block() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with pixel_limit(5):
        assert Image.MAX_IMAGE_PIXELS == 5
    assert before == Image.MAX_IMAGE_PIXELS


def test_one_bad_image_does_not_shift_the_others(tmp_path: Path) -> None:
    paths = [save(Image.new("L", (8, 8), level), tmp_path / f"{level}.png") for level in (10, 20, 30)]
    paths[1].write_bytes(b"no image")
    records, images = decode([str(path) for path in paths], GREY, READING)
    assert (records["reason"] == 0).tolist() == [True, False, True]
    assert images[:, 0, 0, 0].tolist() == [10, 30]
    assert records["mean"].tolist() == [10, 0, 30]


def test_an_image_in_memory_is_prepared_like_a_file() -> None:
    stream = BytesIO()
    Image.fromarray(RAMP).save(stream, "png")
    records, images = decode([lambda: (Image.open(stream), 7)], GREY, READING)
    np.testing.assert_array_equal(images[0, 0], RAMP)
    assert records["label"][0] == 7
