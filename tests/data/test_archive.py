"""An archive is unpacked without trusting its names, links, headers or size."""

import gzip
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm.data.preparing.archive import Member, unpack
from ddpm.data.preparing.reasons import DAMAGED, LINK, NO_NAME, SPECIAL_FILE, TOO_MANY_HEADERS, UNKNOWN_NAME
from ddpm.errors import UserError

CONTENT = {"a.png": b"one", "deep/er/b.png": b"two" * 1000}


@pytest.fixture
def into(tmp_path: Path) -> Callable[..., list[Member]]:
    def run(archive: Path, max_bytes: int = 1_000_000, max_files: int = 100) -> list[Member]:
        folder = tmp_path / "outside" / "inside"
        folder.mkdir(parents=True)
        try:
            return unpack(archive, folder, max_bytes=max_bytes, max_files=max_files)
        finally:
            assert {path.name for path in folder.parent.iterdir()} == {"inside"}, "something was written outside"

    return run


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def contents(members: list[Member]) -> dict[str, bytes]:
    return {member.name: member.file.read_bytes() for member in members if member.file}


@pytest.mark.parametrize(
    ("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")]
)
def test_a_tar_of_any_compression_is_unpacked(tmp_path: Path, into: Callable, suffix: str, mode: str) -> None:
    archive = make_tar(
        tmp_path / f"x.{suffix}", [(tarfile.TarInfo(name), data) for name, data in CONTENT.items()], mode
    )
    assert contents(into(archive)) == CONTENT


def test_a_zip_is_unpacked(tmp_path: Path, into: Callable) -> None:
    assert contents(into(make_zip(tmp_path / "x.zip", CONTENT))) == CONTENT


def test_many_members_with_long_names_survive_a_tar(tmp_path: Path, into: Callable) -> None:
    files = {f"{'n' * 150}/{k}.png": bytes([k]) * (512 * (k % 3)) for k in range(50)}
    archive = make_tar(tmp_path / "x.tar.gz", [(tarfile.TarInfo(n), data) for n, data in files.items()], "w:gz")
    assert contents(into(archive)) == files


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/tmp/evil.png", "..\\evil.png", "C:\\evil.png"])
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, into: Callable, name: str) -> None:
    for archive in (
        make_zip(tmp_path / "x.zip", {name: b"x"}),
        make_tar(tmp_path / "x.tar", [(tarfile.TarInfo(name), b"")]),
    ):
        with pytest.raises(UserError, match="leads outside"):
            into(archive)
        (tmp_path / "outside" / "inside").rmdir()
        (tmp_path / "outside").rmdir()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["../../secret.png", "/etc/passwd", "a.png"])
def test_a_link_in_a_tar_is_not_followed(tmp_path: Path, into: Callable, kind: bytes, target: str) -> None:
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = kind, target
    members = into(make_tar(tmp_path / "x.tar", [(tarfile.TarInfo("a.png"), b"a"), (link, b"")]))
    assert members[1] == Member("link.png", None, LINK)
    assert contents(members) == {"a.png": b"a"}


def test_a_link_to_a_folder_does_not_lead_outside(tmp_path: Path, into: Callable) -> None:
    link = tarfile.TarInfo("folder")
    link.type, link.linkname = tarfile.SYMTYPE, ".."
    members = into(make_tar(tmp_path / "x.tar", [(link, b""), (tarfile.TarInfo("folder/evil.png"), b"x")]))
    assert [member.reason for member in members] == [LINK, None]


def test_a_link_in_a_zip_is_not_followed(tmp_path: Path, into: Callable) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert into(tmp_path / "x.zip") == [Member("link.png", None, LINK)]


def test_a_device_in_a_tar_is_a_member_with_a_reason(tmp_path: Path, into: Callable) -> None:
    device = tarfile.TarInfo("null.png")
    device.type = tarfile.CHRTYPE
    assert into(make_tar(tmp_path / "x.tar", [(device, b"")])) == [Member("null.png", None, SPECIAL_FILE)]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_stopped_while_it_expands(tmp_path: Path, into: Callable, kind: str) -> None:
    zeros = bytes(5_000_000)
    path = tmp_path / f"x.{kind}"
    make_zip(path, {"a.png": zeros}) if kind == "zip" else make_tar(path, [(tarfile.TarInfo("a.png"), zeros)], "w:gz")
    assert path.stat().st_size < 10_000
    with pytest.raises(UserError, match=r"unpacks to more than 1000000 bytes; .*archive_max_bytes"):
        into(path)
    written = sum(file.stat().st_size for file in (tmp_path / "outside").rglob("*") if file.is_file())
    assert written <= 1_000_000


def test_a_zip_that_declares_a_wrong_size_expands_to_no_more_than_that_size(tmp_path: Path, into: Callable) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.png": bytes(5_000_000)})
    declared, actual = (10).to_bytes(4, "little"), (5_000_000).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(actual, declared))
    assert into(path) == [Member("a.png", None, DAMAGED)]


def test_a_tar_bomb_in_a_member_that_nobody_reads_is_stopped_too(tmp_path: Path, into: Callable) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "a"
    folder = tarfile.TarInfo("folder/")
    folder.type = b"Z"  # unknown types carry data that tarfile skips
    with pytest.raises(UserError, match="unpacks to more"):
        into(make_tar(tmp_path / "x.tar.gz", [(folder, bytes(5_000_000)), (link, b"")], "w:gz"))


def test_a_sparse_file_counts_with_its_holes(tmp_path: Path, into: Callable) -> None:
    info = tarfile.TarInfo("a.png")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "999999999", "GNU.sparse.name": "a.png"}
    with pytest.raises(UserError, match="unpacks to more"):
        into(make_tar(tmp_path / "x.tar", [(info, b"x")]))


def test_a_header_that_asks_for_gigabytes_is_refused_before_they_are_read(tmp_path: Path, into: Callable) -> None:
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, 2_000_000_000
    with gzip.open(tmp_path / "x.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1_000_000))
    with pytest.raises(UserError, match="a header of 2000000000 bytes"):
        into(tmp_path / "x.tar.gz", max_bytes=10**10)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_too_many_files_are_refused(tmp_path: Path, into: Callable, kind: str) -> None:
    files = {f"{k}.png": b"" for k in range(101)}
    path = tmp_path / f"x.{kind}"
    make_zip(path, files) if kind == "zip" else make_tar(path, [(tarfile.TarInfo(n), b"") for n in files])
    with pytest.raises(UserError, match="more than 100 files"):
        into(path)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.8])
def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path, into: Callable, kind: str, share: float) -> None:
    path = tmp_path / f"x.{kind}"
    files = {f"{k}.png": bytes(range(256)) * 8 for k in range(20)}
    if kind == "zip":
        make_zip(path, files)
    else:
        make_tar(path, [(tarfile.TarInfo(n), data) for n, data in files.items()], "w:gz" if kind == "tar.gz" else "w")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=r"not a complete \.zip or \.tar"):
        into(path)


def test_a_tar_that_breaks_off_between_two_files_is_refused(tmp_path: Path, into: Callable) -> None:
    path = make_tar(tmp_path / "x.tar", [(tarfile.TarInfo(f"{k}.png"), bytes(512)) for k in range(3)])
    for damaged in (path.read_bytes()[:2048], path.read_bytes()[:2048] + b"\xff" * 512 + path.read_bytes()[2560:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="breaks off after 2 files"):
            into(path)
        for file in sorted((tmp_path / "outside").rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (tmp_path / "outside").rmdir()


def test_a_damaged_file_of_a_zip_is_a_member_with_a_reason(tmp_path: Path, into: Callable) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.png", b"AAAA" * 100)
        archive.writestr("b.png", b"BBBB" * 100)
    (tmp_path / "x.zip").write_bytes((tmp_path / "x.zip").read_bytes().replace(b"AAAA" * 10, b"AABA" * 10))
    members = into(tmp_path / "x.zip")
    assert members[0] == Member("a.png", None, DAMAGED)
    assert contents(members) == {"b.png": b"BBBB" * 100}


def test_a_damaged_file_of_a_zip_in_bzip2_is_a_member_with_a_reason(tmp_path: Path, into: Callable) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", b"AAAA" * 100)
        archive.writestr("b.png", b"BBBB" * 100)
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(b"BZh") + 6] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(data)
    members = into(tmp_path / "x.zip")
    assert members[0] == Member("a.png", None, DAMAGED)
    assert contents(members) == {"b.png": b"BBBB" * 100}


def test_a_file_of_a_zip_with_an_impossible_offset_is_a_member_with_a_reason(tmp_path: Path, into: Callable) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.png": b"A", "b.png": b"B"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.infolist()[0].header_offset = 2**63 - 1  # written as 64 bits
        archive.writestr("c.png", b"C")
    members = into(path)
    assert members[0] == Member("a.png", None, DAMAGED)
    assert contents(members) == {"b.png": b"B", "c.png": b"C"}


def test_a_zip_of_a_later_version_is_refused_in_one_sentence(tmp_path: Path, into: Callable) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.png": b"A"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 193
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"not a complete \.zip or \.tar \(zip file version 19\.3\)"):
        into(path)


@pytest.mark.parametrize("size", [-(2**80), -512, 2**80])
def test_a_header_of_impossible_size_is_refused_in_one_sentence(tmp_path: Path, into: Callable, size: int) -> None:
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, size
    (tmp_path / "x.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1_000_000))
    with pytest.raises(UserError, match=r"not a complete \.zip or \.tar \(a header of -?\d+ bytes\)"):
        into(tmp_path / "x.tar")


def test_a_pax_record_of_any_length_is_refused_in_one_sentence(tmp_path: Path, into: Callable) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"comment": "x" * 30}
        tar.addfile(info)
    path.write_bytes(path.read_bytes().replace(b"42 comment=" + b"x" * 30, b"9" * 30 + b" comment=" + b"x" * 2))
    with pytest.raises(UserError, match=r"not a complete \.zip or \.tar \(.*C ssize_t"):
        into(path)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_damaged_compressed_tar_is_refused_in_one_sentence(
    tmp_path: Path, into: Callable, suffix: str, place: float
) -> None:
    noise = random.Random(0).randbytes(200_000)
    archive = make_tar(tmp_path / "x.tar", [(tarfile.TarInfo("a.png"), noise)], f"w:{suffix}")
    data = bytearray(archive.read_bytes())
    start = int(len(data) * place)
    data[start : start + 20] = bytes(byte ^ 0xFF for byte in data[start : start + 20])
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.tar is not a complete \.zip or \.tar \(") as error:
        into(archive)
    assert "\n" not in str(error.value)


def test_a_name_of_a_zip_that_is_wrongly_flagged_as_utf_8_is_a_reason(tmp_path: Path, into: Callable) -> None:
    path = make_zip(tmp_path / "x.zip", {"a\u00e9.png": b"A", "\u00fc.png": b"U", "PK\x01\x02.png": b"PK\x01\x02" * 50})
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xff\xfe"))
    members = into(path)
    assert [member.reason for member in members] == [UNKNOWN_NAME, None, None]
    assert contents(members) == {"\u00fc.png": b"U", "PK\x01\x02.png": b"PK\x01\x02" * 50}


def test_a_name_of_a_tar_that_is_not_utf_8_is_a_reason(tmp_path: Path, into: Callable) -> None:
    wrong, right = tarfile.TarInfo("a\udcff.png"), tarfile.TarInfo("\u00fc.png")
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for info in (wrong, right):
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    members = into(tmp_path / "x.tar")
    assert [member.reason for member in members] == [UNKNOWN_NAME, None]
    assert contents(members) == {"\u00fc.png": b"x"}


@pytest.mark.parametrize("name", ["", "."])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_file_without_a_name_is_a_reason(tmp_path: Path, into: Callable, kind: str, name: str) -> None:
    path = tmp_path / f"x.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in ((name, b"x"), ("b.png", b"b")):
                with archive.open(zipfile.ZipInfo(member), "w") as file:
                    file.write(data)
    else:
        make_tar(path, [(tarfile.TarInfo(name), b"x"), (tarfile.TarInfo("b.png"), b"b")])
    members = into(path)
    assert members[0] == Member("", None, NO_NAME)
    assert contents(members) == {"b.png": b"b"}


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_member_with_thousands_of_headers_is_a_reason(tmp_path: Path, into: Callable, kind: bytes) -> None:
    record = b"name\0" if kind == tarfile.GNUTYPE_LONGNAME else b"19 path=renamed.png\n"
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, len(record)
    block = header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0")
    files = []
    for name in ("a.png", "b.png", "c.png"):
        info = tarfile.TarInfo(name)
        info.size = 3
        files.append(info.tobuf(tarfile.USTAR_FORMAT) + b"one".ljust(512, b"\0"))
    (tmp_path / "x.tar").write_bytes(files[0] + block * 5000 + files[1] + block * 3 + files[2] + bytes(1024))
    members = into(tmp_path / "x.tar", max_bytes=10_000_000)
    assert [member.reason for member in members] == [None, TOO_MANY_HEADERS, None]
    assert len(contents(members)) == 2


def test_an_encrypted_zip_is_refused(tmp_path: Path, into: Callable) -> None:
    path = make_zip(tmp_path / "x.zip", {"a.png": b"x"})
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        into(path)


def test_a_file_that_is_not_an_archive_is_refused_in_one_sentence(tmp_path: Path, into: Callable) -> None:
    (tmp_path / "x.zip").write_bytes(b"hello " * 500)
    with pytest.raises(UserError, match=r"not a complete \.zip or \.tar"):
        into(tmp_path / "x.zip")


def test_a_missing_archive_or_a_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not found"):
        unpack(tmp_path / "x.zip", tmp_path, max_bytes=1, max_files=1)
    with pytest.raises(UserError, match=r"a folder; set data\.source to folder"):
        unpack(tmp_path, tmp_path, max_bytes=1, max_files=1)
