"""Images a second, processor time and peak memory of the stage `prepare` on a folder of JPEG files.

    python benchmarks/preparation.py --folder CIFAR --output benchmarks/results/preparation.md

The command is that of dvc.yaml, run as DVC runs it: its start counts. First the folder, then again with nothing
changed, then with 1 % more images; then, for the memory, sets of growing size, made from the same images by repetition.
A repeated image has the same pixels but is a file of its own: a comment in it says which repetition it is.
Without `--folder` (a folder, or a zip file of one), a few thousand small JPEG files are drawn. The sets of growing size
end at 1,000,000 files, 4 GB and more in `--scratch`; `--sizes` with nothing behind it leaves them out.
"""

import argparse
import io
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from common import command, machine, table, write
from PIL import Image
from ruamel.yaml import YAML

from ddpm.errors import UserError

ROOT = Path(__file__).parents[1]
TARGET = 5000
"""Small images a second, on two cores."""
DRAWN = 2000
"""Images where no folder is given."""
SAMPLING_SECONDS = 0.2
EXPLAINED = """\
# Preparing images

JPEG files of {}x{} pixels and {:.0f} bytes ({}), just written and so in the file system's cache. Seconds are those
of the whole command of dvc.yaml, its start included; processor seconds are those of all its processes. Peak memory is
that of all its processes together, pages that several share counted once, mapped files included, looked at five times
a second."""


@dataclass(frozen=True)
class Run:
    """What one run of the stage took."""

    seconds: float
    processor_seconds: float
    peak_bytes: int
    read: int
    """Images whose files were read."""


class Folder:
    """A growing folder of JPEG files, laid out as its source is."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.sources = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        if not self.sources:
            raise UserError(f"{source} holds no .jpg or .jpeg files; give a folder of them")
        self.source = source
        self.files: list[Path] = []

    def grow(self, n: int) -> None:
        """Files up to `n` in all; from the second round through the sources on, with a comment.

        They are dated a day ahead, so that each reading leaves its date on the file: a file system mounted with
        relatime, as is usual, notes a reading only if it is the first since the last change.
        """
        tomorrow = time.time() + 86400
        for k in range(len(self.files), n):
            repetition, index = divmod(k, len(self.sources))
            source = self.sources[index]
            name = source.relative_to(self.source)
            file = self.path / name.with_name(f"{name.stem}-{repetition:04}{name.suffix}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(commented(source.read_bytes(), repetition))
            os.utime(file, (tomorrow - 2 * 86400, tomorrow))
            self.files.append(file)

    def reading_times(self) -> np.ndarray:
        """int64 [N], ns: when each file was last read."""
        return np.array([file.stat().st_atime_ns for file in self.files])


def commented(jpeg: bytes, number: int) -> bytes:
    """The same image with a comment segment (ITU-T T.81, B.2.4.5) after its first marker; number 0: as it is."""
    if number == 0:
        return jpeg
    text = f"{number:012}".encode()
    return jpeg[:2] + b"\xff\xfe" + (2 + len(text)).to_bytes(2, "big") + text + jpeg[2:]


def draw_images(folder: Path, n: int) -> None:
    """Distinct blurry 32x32 colour images of ten classes."""
    random = np.random.default_rng(0)
    for k in range(n):
        pixels = random.integers(0, 256, (4, 4, 3), np.uint8)
        path = folder / f"class {k % 10}" / f"{k:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)


@contextmanager
def sources(folder: Path | None) -> Iterator[Path]:
    """The folder itself, or one for as long as it is needed: what a zip file holds, or drawn images."""
    if folder is not None and folder.is_dir():
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        if folder is None:
            draw_images(Path(made), DRAWN)
        elif zipfile.is_zipfile(folder):
            with zipfile.ZipFile(folder) as archive:
                archive.extractall(made)
        else:
            raise UserError(f"{folder} is neither a folder nor a zip file; give the folder of your JPEG files")
        yield Path(made)


def write_params(work: Path, raw: Path, workers: int) -> None:
    """params.yaml of a project whose images stand in `raw`."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["data"] |= {"source": "folder", "path": str(raw)}
    params["runtime"] |= {"workers": workers, "progress": False}
    work.mkdir(parents=True)
    yaml.dump(params, work / "params.yaml")


def stage_command() -> list[str]:
    """How dvc.yaml runs `prepare`, by this Python."""
    told = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]["prepare"]["cmd"]
    return [sys.executable if word == "python" else word for word in shlex.split(told)]


def run_stage(work: Path, folder: Folder) -> Run:
    """The stage in the project `work`. Raises UserError where it fails."""
    before = folder.reading_times()
    used = _processor_seconds()
    began = time.perf_counter()
    process = subprocess.Popen(stage_command(), cwd=work, stdout=subprocess.DEVNULL)
    with sampling_memory(process.pid) as peak:
        status = process.wait()
    seconds = time.perf_counter() - began
    if status:
        raise UserError(f"the stage ended with status {status}; its reason stands above")
    read = int((folder.reading_times() != before).sum())
    return Run(seconds, _processor_seconds() - used, max(peak), read)


def _processor_seconds() -> float:
    """Of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def sampling_memory(pid: int) -> Iterator[list[int]]:
    """Bytes of the process and all below it, every so often; pages that several share count once in all."""
    samples, over = [0], threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLING_SECONDS):
            samples.append(tree_bytes(pid))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def tree_bytes(pid: int) -> int:
    """Proportional set size (Linux; elsewhere resident size) of a process and its descendants, as far as they live."""
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
        except psutil.Error:  # it has ended
            continue
    return total


def speed(scratch: Path, source: Path, *, images: int | None, share: float, workers: int) -> str:
    """The table of the first run, one with nothing changed, and one with `share` more images."""
    folder = Folder(scratch / "raw", source)
    n = images or len(folder.sources)
    more = max(1, round(share * n))
    write_params(scratch / "work", folder.path, workers)
    rows = []
    for what, size, target in (
        ("first run", n, f"{TARGET:,}"),
        ("again, nothing changed", n, ""),
        (f"again, {more:,} images more ({share:.0%})", n + more, ""),
    ):
        changed = size - len(folder.files)
        folder.grow(size)
        run = run_stage(scratch / "work", folder)
        rows.append(
            {
                "run": what,
                "images": f"{size:,}",
                "new": f"{changed:,}",
                "files read": f"{run.read:,}",
                "seconds": f"{run.seconds:.1f}",
                "images/s": f"{size / run.seconds:,.0f}",
                "target": target,
                "processor seconds": f"{run.processor_seconds:.1f}",
                "peak memory, MB": f"{run.peak_bytes / 1e6:.0f}",
            }
        )
    return table(rows)


def memory(scratch: Path, source: Path, *, sizes: list[int], workers: int) -> str:
    """The table of peak memory by the number of images, each set prepared from nothing."""
    folder = Folder(scratch / "grown", source)
    rows = []
    for size in sorted(sizes):
        folder.grow(size)
        work = scratch / f"work of {size}"
        write_params(work, folder.path, workers)
        run = run_stage(work, folder)
        print(f"{size:,} images prepared in {run.seconds:.0f} s", file=sys.stderr)
        rows.append(
            {
                "images": f"{size:,}",
                "seconds": f"{run.seconds:.1f}",
                "images/s": f"{size / run.seconds:,.0f}",
                "processor seconds": f"{run.processor_seconds:.1f}",
                "peak memory, MB": f"{run.peak_bytes / 1e6:.0f}",
            }
        )
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", type=int, help="of the first part; default: as many as the folder holds")
    parser.add_argument("--share", type=float, default=0.01, help="of images that are new in the last run")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=0, help="runtime.workers; 0: one per core")
    parser.add_argument("--scratch", type=Path, help="where the files go (4 KB each and more); default: TMPDIR")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with sources(args.folder) as source, tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        some = [io.BytesIO(path.read_bytes()) for path in Folder(Path(scratch), source).sources[:1000]]
        typical = statistics.median(len(file.getvalue()) for file in some)
        width, height = Image.open(some[0]).size
        text = [
            EXPLAINED.format(width, height, typical, args.folder.name if args.folder else "drawn"),
            speed(Path(scratch), source, images=args.images, share=args.share, workers=args.workers),
        ]
        if args.sizes:
            text += ["Sets made by repeating these images, each prepared from nothing:"]
            text += [memory(Path(scratch), source, sizes=args.sizes, workers=args.workers)]
    write(args.output, "\n\n".join([*text, f"{machine()}.\n`{command()}`"]))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
