"""Unpack a user's archive without trusting it.

Member names never become paths on disk: every member is written to a numbered file, so no name, link or device in the
archive can write outside the target folder.
"""

import bz2
import errno
import gzip
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ddpm.data.preparing.reasons import DAMAGED, LINK, NO_NAME, SPECIAL_FILE, TOO_MANY_HEADERS, UNKNOWN_NAME
from ddpm.errors import UserError

_CHUNK_BYTES = 1 << 20
_LARGEST_TAR_HEADER_BYTES = 1 << 20
"""Limit for one extended header (long name, pax record), which is read in one piece; real ones are below 1 KB."""
_MOST_TAR_HEADERS = 16
"""Limit of extended headers before one member; real archives have at most four."""
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_CENTRAL, _CENTRAL_BYTES, _UTF_8 = b"PK\x01\x02", 46, 0x800
"""An entry of a zip's central directory: its signature, its size in bytes without names, its UTF-8 flag."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, struct.error),
    *(ValueError, OverflowError),
)
"""Errors that the readers raise for malformed bytes, besides some kinds of OSError (see _is_disk_error)."""


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name in the archive, and either its path on disk or the reason why it has none."""

    name: str
    file: Path | None
    reason: str | None = None


def unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> list[Member]:
    """Write every regular file of a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz to a numbered file under `folder`.

    Bytes are counted while they are expanded, headers included; the sizes that the archive declares are not used.
    Links and devices are not followed: each becomes a member with a reason. So does a damaged file of a zip, and a
    file without a name, with a name that is not UTF-8 or with too many headers.
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
    except (*_BROKEN, OSError, NotImplementedError) as error:  # NotImplementedError: a zip of a later version
        if _is_disk_error(error):
            raise
        raise UserError(f"{archive} is not a complete .zip or .tar ({error}); make or fetch it again") from None


class _Budget:
    """Counts the bytes and files that an archive expands to. Raises UserError above the limits."""

    def __init__(self, archive: Path, max_bytes: int, max_files: int) -> None:
        self.archive, self.max_bytes, self.max_files = archive, max_bytes, max_files
        self.bytes = self.files = 0

    def spend(self, n_bytes: int) -> None:
        self.bytes += n_bytes
        if self.bytes > self.max_bytes:
            raise UserError(
                f"{self.archive} unpacks to more than {self.max_bytes} bytes; "
                "raise data.archive_max_bytes if this is intended"
            )

    def add_member(self) -> None:
        self.files += 1
        if self.files > self.max_files:
            raise UserError(
                f"{self.archive} contains more than {self.max_files} files; "
                "raise data.archive_max_files if this is intended"
            )


def _inner_name(archive: Path, name: str) -> str:
    """Return the member's name with single forward slashes. Raises UserError for a name that leads outside."""
    name = name.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise UserError(f"{archive} contains {name!r}, a path that leads outside; make it again without that file")
    return "/".join(parts)


def _reason_of_name(name: str) -> str | None:
    """Return why a file of this name is rejected, or None. A name that is not UTF-8 contains surrogate characters."""
    if not name:
        return NO_NAME
    return UNKNOWN_NAME if _SURROGATE.search(name) else None


def _write(source: IO[bytes], folder: Path, number: int, budget: _Budget) -> Path:
    target = folder / f"{number // 1000:06d}" / f"{number % 1000:03d}"
    target.parent.mkdir(exist_ok=True)
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            budget.spend(len(chunk))
            file.write(chunk)
    return target


class _ForgivingNames:
    """A zip file in which names that are wrongly flagged as UTF-8 are corrected; zipfile would reject the archive."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.listing = True
        """True until zipfile has read the central directory."""
        self.wrong: set[int] = set()
        """Indices of names that are not UTF-8; they are read as code page 437, which accepts all bytes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, n_bytes: int = -1) -> bytes:
        data = self._file.read(n_bytes)
        return self._corrected(data) if self.listing and data[:4] == _CENTRAL else data

    def _corrected(self, data: bytes) -> bytes:
        """Return the central directory with the UTF-8 flag removed from names that are not UTF-8."""
        corrected, start, place = bytearray(data), 0, 0
        while data[start : start + 4] == _CENTRAL and len(data) >= start + _CENTRAL_BYTES:
            flags, lengths = data[start + 8] | data[start + 9] << 8, struct.unpack_from("<3H", data, start + 28)
            try:
                data[start + _CENTRAL_BYTES : start + _CENTRAL_BYTES + lengths[0]].decode(
                    "utf-8" if flags & _UTF_8 else "latin-1"
                )
            except UnicodeDecodeError:
                corrected[start + 9] &= ~(_UTF_8 >> 8) & 0xFF
                self.wrong.add(place)
            start, place = start + _CENTRAL_BYTES + sum(lengths), place + 1
        return bytes(corrected)


def _unzip(file: IO[bytes], folder: Path, budget: _Budget) -> Iterator[Member]:
    forgiving = _ForgivingNames(file)
    with zipfile.ZipFile(forgiving) as opened:
        forgiving.listing = False
        for number, info in enumerate(opened.infolist()):
            budget.add_member()
            name = _inner_name(budget.archive, info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.filename.endswith("/") or kind == stat.S_IFDIR:
                continue
            if kind not in (0, stat.S_IFREG):
                yield Member(name, None, LINK if kind == stat.S_IFLNK else SPECIAL_FILE)
                continue
            if reason := UNKNOWN_NAME if number in forgiving.wrong else _reason_of_name(name):
                yield Member(name, None, reason)
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
            except (*_BROKEN, OSError, MemoryError) as error:  # MemoryError: an LZMA dictionary of gigabytes
                if _is_disk_error(error):
                    raise
                yield Member(name, None, DAMAGED)


def _is_disk_error(error: Exception) -> bool:
    """Whether the disk failed. Malformed bytes raise OSError without errno (gzip, bz2), and bad offsets with EINVAL."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _expanded(file: IO[bytes], magic: bytes) -> Any:
    if magic[:2] == b"\x1f\x8b":
        return gzip.GzipFile(fileobj=file)
    if magic[:3] == b"BZh":
        return bz2.BZ2File(file)
    if magic == b"\xfd7zXZ\x00":
        return lzma.LZMAFile(file)
    return file


class _ForwardOnly:
    """The expanded tar as a stream for tarfile: reads are counted and limited in size, and it is never rewound."""

    def __init__(self, source: IO[bytes], budget: _Budget) -> None:
        self._source, self._budget = source, budget
        self._position = 0
        self._again = b""
        self.depth = 0
        """How many headers are being read, one within another."""
        self.last_read = b""

    def tell(self) -> int:
        return self._position

    def read(self, n_bytes: int) -> bytes:
        if not 0 <= n_bytes <= _LARGEST_TAR_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {n_bytes} bytes")
        data = self._again[:n_bytes]
        self._again = self._again[n_bytes:]
        new = self._source.read(n_bytes - len(data))
        self._budget.spend(len(new))
        self._position += len(data) + len(new)
        self.last_read = data + new
        return self.last_read

    def put_back(self, data: bytes) -> None:
        """Let the next read return this data, which was read last, again."""
        self._again = data + self._again
        self._position -= len(data)

    def seek(self, position: int) -> None:
        if position == self._position - 1 and self.last_read:  # tarfile checks that the data are complete
            self.put_back(self.last_read[-1:])
            return
        if position < self._position:
            raise tarfile.ReadError("overlapping headers")
        while self._position < position:
            if not self.read(min(_CHUNK_BYTES, position - self._position)):
                raise tarfile.ReadError("unexpected end of data")


class _TarInfo(tarfile.TarInfo):
    """A member whose extended headers are skipped where there are too many: tarfile recurses into each of them."""

    too_many_headers = False

    @classmethod
    def fromtarfile(cls, tarfile: "tarfile.TarFile") -> "_TarInfo":
        stream: Any = tarfile.fileobj
        stream.depth += 1
        try:
            skipped = stream.depth > _MOST_TAR_HEADERS and cls._skip_extended(tarfile, stream)
            info = super().fromtarfile(tarfile)
            info.too_many_headers |= skipped
            return info
        finally:
            stream.depth -= 1

    @classmethod
    def _skip_extended(cls, tar: "tarfile.TarFile", stream: "_ForwardOnly") -> bool:
        """Skip to the header of the member itself; return True."""
        while True:
            header = stream.read(tarfile.BLOCKSIZE)
            info = cls.frombuf(header, tar.encoding, tar.errors)
            if info.type not in _EXTENDED:
                stream.put_back(header)
                return True
            stream.seek(stream.tell() + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)


def _untar(file: IO[bytes], folder: Path, budget: _Budget) -> Iterator[Member]:
    stream = _ForwardOnly(file, budget)
    # Holes of sparse files are not in the stream, but count as bytes written.
    sparse = _Budget(budget.archive, budget.max_bytes, budget.max_files)
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_TarInfo, encoding="utf-8") as opened:  # type: ignore[call-overload]
        while (info := opened.next()) is not None:
            opened.members = []  # tarfile would keep all members and all global headers in memory
            opened.pax_headers.clear()
            budget.add_member()
            name = _inner_name(budget.archive, info.name)
            if info.isdir():
                continue
            if not info.isreg():
                yield Member(name, None, LINK if info.islnk() or info.issym() else SPECIAL_FILE)
                continue
            if reason := TOO_MANY_HEADERS if info.too_many_headers else _reason_of_name(name):
                yield Member(name, None, reason)
                continue
            source = opened.extractfile(info)
            assert source is not None
            yield Member(name, _write(source, folder, budget.files, sparse))
    # tarfile treats a malformed header in the middle as the end, without an error.
    if stream.last_read.strip(b"\0") or len(stream.last_read) != tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"it breaks off after {budget.files} files")
    while stream.read(_CHUNK_BYTES):  # compressed formats have their checksum at the end
        pass
