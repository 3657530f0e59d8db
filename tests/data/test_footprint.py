"""Decoding takes no more memory than the estimate by the header, and an image with a larger estimate is not decoded."""

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data.preparing.decode_file import decode
from ddpm.data.preparing.footprint import bytes_taken
from ddpm.data.preparing.picture_file import Reading, Seen, opened
from ddpm.data.preparing.pixels import Target
from ddpm.data.preparing.reasons import REASONS, TOO_LARGE, TOO_MUCH_MEMORY

SIDE = 1500
SLACK = 16_000_000
"""Bytes of buffers that do not grow with the image."""
GREY = (np.indices((SIDE, SIDE)).sum(0) % 200).astype(np.uint8)

DECODED = """
import os, sys
from ddpm.data.preparing.decode_file import decode
from ddpm.data.preparing.picture_file import Reading
from ddpm.data.preparing.pixels import Target

def highest() -> int:
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

reading = Reading(max_pixels=10**8, max_bytes=10**10, white=65535)
decode([__import__("sys").argv[1]], Target(size=32, channels=1, fit="pad"), reading)  # loads what all kinds need
for path in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        before = highest()
        records, _ = decode([path], Target(size=32, channels=1, fit="pad"), reading)
        print(path, highest() - before, records["reason"][0], flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.fromarray(GREY))
    return image


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


KINDS: dict[str, Callable[[Path], object]] = {
    "rgba.png": lambda path: _with_alpha(Image.fromarray(GREY)).save(path, compress_level=1),
    "palette.png": lambda path: Image.fromarray(GREY).convert("P").save(path, transparency=3, compress_level=1),
    "turned.png": lambda path: Image.fromarray(GREY).convert("RGB").save(path, exif=_turned(), compress_level=1),
    "deep.png": lambda path: Image.fromarray(GREY.astype(np.uint16) * 257).save(path, compress_level=1),
    "deep.pgm": lambda path: path.write_bytes(f"P5 {SIDE} {SIDE} 4095\n".encode() + GREY.astype(">u2").tobytes()),
    "float.tif": lambda path: Image.fromarray((GREY / 255).astype(np.float32)).save(path),
    "one_strip.tif": lambda path: _with_alpha(Image.fromarray(GREY)).save(
        path, compression="tiff_adobe_deflate", strip_size=10**9
    ),
    "progressive.jpg": lambda path: Image.fromarray(GREY).convert("CMYK").save(path, progressive=True),
    "alpha.webp": lambda path: _with_alpha(Image.fromarray(GREY)).save(path, method=0),
    "alpha.jp2": lambda path: _with_alpha(Image.fromarray(GREY)).save(path, irreversible=True),
    "a.gif": lambda path: Image.fromarray(GREY).save(path),
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells how much memory was taken")
def test_every_format_takes_at_most_the_estimate_by_its_header(tmp_path: Path) -> None:
    estimated = {}
    for name, save in KINDS.items():
        path = tmp_path / name
        save(path)
        with path.open("rb") as file, opened(file, Reading(10**8, 10**10, None), Seen()) as image:
            estimated[str(path)] = bytes_taken(image, path.stat().st_size)
    done = subprocess.run(
        [sys.executable, "-c", DECODED, *estimated],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    taken = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert taken.keys() == estimated.keys(), done.stderr
    assert {path: reason for path, (_, reason) in taken.items() if reason != "0"} == {}
    over = {
        Path(path).name: (int(n), estimated[path]) for path, (n, _) in taken.items() if int(n) > estimated[path] + SLACK
    }
    assert over == {}, "measured, estimated"
    loose = {
        Path(path).name: (int(n), estimated[path])
        for path, (n, _) in taken.items()
        if estimated[path] > 4 * int(n) + SLACK
    }
    assert loose == {}, "an estimate far above the measured memory rejects images that could be read"


def _reason(path: Path, max_bytes: int) -> str | None:
    target, reading = Target(size=8, channels=3, fit="crop"), Reading(10**8, max_bytes, None)
    code = decode([str(path)], target, reading)[0]["reason"][0]
    return REASONS[code - 1] if code else None


def test_the_limit_is_exact_to_the_byte(tmp_path: Path) -> None:
    Image.new("RGBA", (100, 50)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        needed = bytes_taken(image, 0)
    assert _reason(tmp_path / "a.png", needed) is None
    assert _reason(tmp_path / "a.png", needed - 1) == TOO_MUCH_MEMORY


def test_a_file_larger_than_the_limit_is_not_opened(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.webp", lossless=True)
    with (tmp_path / "a.webp").open("ab") as file:
        file.truncate(2_000_000)
    assert _reason(tmp_path / "a.webp", 1_000_000) == TOO_MUCH_MEMORY


def test_an_icon_counts_with_its_largest_image(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 6, 0, 0, 0))
    inside = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10))) + chunk(b"IEND", b"")
    entry = struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    (tmp_path / "a.ico").write_bytes(entry + inside)
    assert _reason(tmp_path / "a.ico", 10**9) == TOO_MUCH_MEMORY
    assert decode([str(tmp_path / "a.ico")], Target(8, 3, "crop"), Reading(10**6, 10**12, None))[0]["reason"][0] == (
        1 + REASONS.index(TOO_LARGE)
    )


def test_a_tile_counts_though_it_is_larger_than_its_image(tmp_path: Path) -> None:
    side, data = 4000, zlib.compress(bytes(4000 * 4000))
    tags = (
        *((256, 8), (257, 8), (258, 8), (259, 8), (262, 1), (277, 1)),
        *((322, side), (323, side), (324, 200), (325, len(data))),
    )
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    head += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    (tmp_path / "a.tif").write_bytes(head.ljust(200, b"\0") + data)
    assert _reason(tmp_path / "a.tif", 10**9) is None
    assert _reason(tmp_path / "a.tif", 16_000_000) == TOO_MUCH_MEMORY


def test_tags_that_all_refer_to_the_same_bytes_are_not_all_read(tmp_path: Path) -> None:
    """Each tag takes 12 bytes in the file and refers to 190,000 bytes."""
    count, data = 10_000, 190_000
    head = struct.pack("<2sHIH", b"II", 42, 8, count)
    tags = b"".join(struct.pack("<HHII", 40_000 + k, 7, data, 0) for k in range(count - 2))
    size = struct.pack("<HHII", 256, 3, 1, 8) + struct.pack("<HHII", 257, 3, 1, 8)
    (tmp_path / "a.tif").write_bytes((head + size + tags).ljust(data, b"\0"))
    program = DECODED.replace("10**10", "10**9")
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.tif"], capture_output=True, text=True)
    assert int(done.stdout.split()[1]) < 50_000_000
