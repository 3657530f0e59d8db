"""A user's archive, unpacked without trusting it.

Member names are labels and never become paths on disk: every member is written to a numbered file, so nothing
can land outside the target folder, whatever the names, links or devices in the archive say.
"""

import bz2
import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ddpm.data.reasons import DAMAGED, LINK, SPECIAL_FILE
from ddpm.errors import UserError

_CHUNK_BYTES = 1 << 20
_LARGEST_TAR_HEADER_BYTES = 1 << 24
"""Extended headers (long names, pax records) are read in one piece; real ones have a few hundred bytes."""


@dataclass(frozen=True)
class Member:
    """A file of a folder or an archive: its name there, where it lies on disk, or why it does not."""

    name: str
    file: Path | None
    reason: str | None = None


def unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> list[Member]:
    """Write every regular file of a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz to a numbered file under `folder`.

    Bytes are counted while they are expanded, headers included, and never taken from what the archive declares.
    Links and devices are not followed; they are members with a reason. So is a damaged file of a zip.
    Raises UserError for a name that leads outside the archive, for more than `max_bytes` or `max_files`,
    and for an archive that is encrypted, cut off, damaged, or of another kind.
    """
    try:
        with archive.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            if magic[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                return list(_unzip(file, folder, _Budget(archive, max_bytes, max_files)))
            with _expanded(file, magic) as tar:
                return list(_untar(tar, folder, _Budget(archive, max_bytes, max_files)))
    except FileNotFoundError:
        raise UserError(f"data.path is {archive}, which was not found; give the path of a .zip or .tar") from None
    except IsADirectoryError:
        raise UserError(f"data.path is {archive}, a folder; set data.source to folder, or give an archive") from None
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        lzma.LZMAError,
        gzip.BadGzipFile,
    ) as error:
        raise UserError(f"{archive} is no whole .zip or .tar ({error}); make or fetch it again") from None


class _Budget:
    """What the archive may still expand to."""

    def __init__(self, archive: Path, max_bytes: int, max_files: int) -> None:
        self.archive, self.max_bytes, self.max_files = archive, max_bytes, max_files
        self.bytes = self.files = 0

    def spend(self, n_bytes: int) -> None:
        self.bytes += n_bytes
        if self.bytes > self.max_bytes:
            raise UserError(
                f"{self.archive} unpacks to more than {self.max_bytes} bytes; "
                "if it is meant to, raise data.archive_max_bytes"
            )

    def add_member(self) -> None:
        self.files += 1
        if self.files > self.max_files:
            raise UserError(
                f"{self.archive} holds more than {self.max_files} files; "
                "if it is meant to, raise data.archive_max_files"
            )


def _inner_name(archive: Path, name: str) -> str:
    """The member's name with single forward slashes; refused when it would lead outside."""
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise UserError(f"{archive} holds {name!r}, a path that leads outside of it; make the archive again without it")
    return "/".join(parts)


def _write(source: IO[bytes], folder: Path, number: int, budget: _Budget) -> Path:
    target = folder / f"{number // 1000:06d}" / f"{number % 1000:03d}"
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            budget.spend(len(chunk))
            file.write(chunk)
    return target


def _unzip(file: IO[bytes], folder: Path, budget: _Budget) -> Iterator[Member]:
    with zipfile.ZipFile(file) as opened:
        for number, info in enumerate(opened.infolist()):
            budget.add_member()
            name = _inner_name(budget.archive, info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind == stat.S_IFDIR:
                continue
            if kind not in (0, stat.S_IFREG):
                yield Member(name, None, LINK if kind == stat.S_IFLNK else SPECIAL_FILE)
                continue
            if info.flag_bits & 0x1:
                raise UserError(f"{budget.archive} is encrypted; unpack it yourself and set data.source to folder")
            try:
                with opened.open(info) as source:
                    yield Member(name, _write(source, folder, number, budget))
            except NotImplementedError as error:
                raise UserError(
                    f"{budget.archive} cannot be unpacked here ({error}); "
                    "unpack it yourself and set data.source to folder"
                ) from None
            except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError):
                yield Member(name, None, DAMAGED)


def _expanded(file: IO[bytes], magic: bytes) -> Any:
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if magic[:3] == b"BZh":
        return bz2.BZ2File(file)
    if magic == b"\xfd7zXZ\x00":
        return lzma.LZMAFile(file)
    return file


class _ForwardOnly:
    """The expanded tar as tarfile reads it: counted, without large single reads, and never rewound."""

    def __init__(self, source: IO[bytes], budget: _Budget) -> None:
        self._source, self._budget = source, budget
        self._position = 0
        self._again = b""
        self.last_read = b""

    def tell(self) -> int:
        return self._position

    def read(self, n_bytes: int) -> bytes:
        if n_bytes > _LARGEST_TAR_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {n_bytes} bytes")
        data = self._again[:n_bytes]
        self._again = self._again[n_bytes:]
        new = self._source.read(n_bytes - len(data))
        self._budget.spend(len(new))
        self._position += len(data) + len(new)
        self.last_read = data + new
        return self.last_read

    def seek(self, position: int) -> None:
        if position == self._position - 1 and self.last_read:  # how tarfile asks whether the data are all there
            self._again = self.last_read[-1:] + self._again
            self._position = position
            return
        if position < self._position:
            raise tarfile.ReadError("headers that overlap")
        while self._position < position:
            if not self.read(min(_CHUNK_BYTES, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")


def _untar(file: IO[bytes], folder: Path, budget: _Budget) -> Iterator[Member]:
    stream = _ForwardOnly(file, budget)
    sparse = _Budget(budget.archive, budget.max_bytes, budget.max_files)  # holes cost the stream nothing
    with tarfile.open(fileobj=stream, mode="r:") as opened:  # type: ignore[call-overload]
        while (info := opened.next()) is not None:
            opened.members = []  # tarfile would keep them all
            budget.add_member()
            name = _inner_name(budget.archive, info.name)
            if info.isdir():
                continue
            if not info.isreg():
                yield Member(name, None, LINK if info.islnk() or info.issym() else SPECIAL_FILE)
                continue
            source = opened.extractfile(info)
            assert source is not None
            yield Member(name, _write(source, folder, budget.files, sparse))
    # tarfile takes a broken header in the middle for the end, without a word.
    if stream.last_read.strip(b"\0") or len(stream.last_read) != tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it breaks off after {budget.files} files")
