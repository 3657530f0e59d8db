"""What every benchmark says and does alike: the machine, the images, taking turns, Markdown tables."""

import argparse
import io
import platform
import statistics
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ddpm.compute.cores import cores
from ddpm.data.reading.dataset import read_facts, read_split
from ddpm.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SHOWN = 100
"""Images on a picture."""


@dataclass(frozen=True)
class Images:
    """Train and test images: uint8 [N,C,H,W], int64 labels [N] or None, and the names of the classes, if any."""

    name: str
    train: np.ndarray
    train_labels: np.ndarray | None
    test: np.ndarray
    test_labels: np.ndarray | None
    classes: tuple[str, ...] = ()


def add_training_arguments(parser: argparse.ArgumentParser, *, minutes: float, models: Path) -> None:
    """Add the options of every benchmark that trains; `minutes` and `models` are their defaults."""
    parser.add_argument("--minutes", type=float, default=minutes, help="of each training")
    parser.add_argument("--models", type=Path, default=models, help="folder of the trained weights")
    parser.add_argument("--output", type=Path, help="a file for the report")


def load_images(folder: Path | None, *, size: int = 32) -> Images:
    """The images of a prepared folder, of MNIST's own files below `folder`, or of a zip; without one, sklearn's digits.

    Grey images smaller than `size` pixels are brought to it: MNIST by a black border, as its digits have one already;
    the 8x8 digits by repeating pixels. Others are taken as they are. A zip has train/CLASS/FILE and test/CLASS/FILE.
    Raises UserError where the folder or the zip holds none of these.
    """
    if folder is None:
        return _digits(size)
    if folder.suffix == ".zip":
        return _archived(folder)
    if (folder / "dataset.json").is_file():
        facts, train, test = read_facts(folder), read_split(folder, "train"), read_split(folder, "test")
        return Images(facts.name, train.images[:], train.labels, test.images[:], test.labels, tuple(facts.classes))
    found = sorted(folder.rglob("train-images-idx3-ubyte"))
    if not found:
        raise UserError(
            f"{folder} holds neither a dataset.json nor MNIST's train-images-idx3-ubyte; give a prepared folder or "
            "the folder of MNIST's unpacked files"
        )
    raw = found[0].parent
    parts = [
        _idx(raw / f"{part}-{kind}-ubyte") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    ]
    images = [_bordered(part[:, None], size) for part in parts[::2]]
    labels = [part.astype(np.int64) for part in parts[1::2]]
    return Images(f"MNIST padded to {size}x{size}", images[0], labels[0], images[1], labels[1])


def _archived(path: Path) -> Images:
    """RGB images of one size; the classes are the names of the folders that hold them."""
    from PIL import Image

    pixels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    names: dict[str, list[str]] = {"train": [], "test": []}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            part, *folders = PurePosixPath(member).parts[:-1] or ("",)
            if part not in pixels or not folders or member.endswith("/"):
                continue  # such as a README beside the folders
            try:
                with Image.open(io.BytesIO(archive.read(member))) as image:
                    pixels[part].append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
            except OSError:
                raise UserError(f"{member!r} in {path} is no image that can be read; remove it from the zip") from None
            names[part].append(folders[-1])
    classes = sorted(set(names["train"]))
    if not pixels["train"] or set(names["test"]) != set(classes):
        raise UserError(f"{path} has no train/CLASS/FILE and test/CLASS/FILE of the same classes; give such a zip")
    number = {name: k for k, name in enumerate(classes)}
    images = [np.stack(pixels[part]) for part in ("train", "test")]
    labels = [np.array([number[name] for name in names[part]], np.int64) for part in ("train", "test")]
    return Images(f"images of {path.name}", images[0], labels[0], images[1], labels[1], tuple(classes))


def _idx(path: Path) -> np.ndarray:
    """LeCun's format: two zero bytes, the type (8: uint8), the number of axes, their lengths, the values."""
    content = path.read_bytes()
    if content[:3] != b"\0\0\x08":
        raise UserError(f"{path} does not begin like an idx file of bytes; unpack it, or fetch it again")
    shape = np.frombuffer(content, ">u4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape.astype(int))


def _bordered(images: np.ndarray, size: int) -> np.ndarray:
    border = (size - images.shape[-1]) // 2
    return np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)))


def _digits(size: int) -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    images = images.repeat(size // 8, axis=2).repeat(size // 8, axis=3)
    labels = digits.target.astype(np.int64)
    held_out = len(images) // 5
    return Images(
        f"scikit-learn's digits enlarged to {size}x{size}",
        images[held_out:],
        labels[held_out:],
        images[:held_out],
        labels[:held_out],
    )


def take_turns(measures: Mapping[str, Callable[[], float]], *, rounds: int) -> dict[str, list[float]]:
    """What each measure gave in each round, one after the other within a round, each second round backwards.

    A machine that is slowed for a while slows all of a round, so the ratios within a round stay.
    """
    results: dict[str, list[float]] = {name: [] for name in measures}
    for turn in range(rounds):
        order = list(measures) if turn % 2 == 0 else list(reversed(measures))
        for name in order:
            results[name].append(measures[name]())
    return results


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of the rounds, one by one."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Median, and the smallest and the largest in brackets: `2.04 (1.98 to 2.11)`."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The spread of their ratios."""
    return spread(ratios(ours, theirs))


def machine(device: str = "cpu") -> str:
    """Processor or GPU, cores, versions and date, as one line below a table."""
    import torch

    where = _processor()
    if device.startswith("cuda"):
        where = f"{torch.cuda.get_device_name(device)}, {where}"
    threads = f"torch {torch.__version__} on {torch.get_num_threads()} threads"
    return f"{where}, {cores()} cores, {threads}, Python {platform.python_version()}, {date.today()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    bf16 = [label for flag, label in (("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX-BF16")) if flag in flags]
    return " with ".join([names[0] if names else platform.machine(), *([" and ".join(bf16)] if bf16 else [])])


def command() -> str:
    """The command that this process runs, for a reader to repeat; places outside the project by their last name."""
    told = [Path(word).name if word.startswith(("/", "../")) else word for word in sys.argv[1:]]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *told])


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Markdown; the first row's keys are the header, the first column is text and the others are numbers."""
    header = list(rows[0])
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *([row[key] for key in header] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def save_pictures(folder: Path, images: "Mapping[str, Tensor | np.ndarray]") -> None:
    """A grid of the first SHOWN images of each name: `folder`/NAME.png."""
    import torch

    from ddpm.generation.grid import grid

    folder.mkdir(parents=True, exist_ok=True)
    for name, each in images.items():
        shown = torch.as_tensor(each[:SHOWN])
        grid(shown, columns=10, scale=2).save(folder / f"{name.replace(' ', '_')}.png")


def write(output: Path | None, text: str) -> None:
    """Prints the text and, where `output` is given, writes it there."""
    print(text, flush=True)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")
