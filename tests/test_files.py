"""A file that is written as a whole, whatever is in its way."""

import errno
import re
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.files import disk_trouble, disk_trouble_in, write_text


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 100 bytes, which is an OSError as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "params.yaml"
    victim.write_text("as it was")
    (tmp_path / "params.yaml.part").symlink_to(victim)
    write_text(file, "new")
    assert (victim.read_text(), file.read_text(), file.is_symlink()) == ("as it was", "new", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "victim"]


def test_an_error_of_the_disk_names_the_file_which_stays(tmp_path: Path, full_disk: None) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("as it was")
    with pytest.raises(OSError, match=r"params\.yaml") as error:
        write_text(file, "x" * 10_000)
    assert error.value.filename == str(file)
    assert file.read_text() == "as it was"
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def by_numpy() -> None:
    np.ones(100_000).tofile("/dev/full")


def by_pillow() -> None:
    Image.new("L", (1000, 1000)).save("/dev/full", format="BMP")


def by_safetensors() -> None:
    """The words of safetensors, which says nothing else; the device /dev/full cannot be given to it."""
    raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def not_permitted() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "reports/metrics.json")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (by_numpy, "a file could not be written (No space left on device); make space there and start again"),
        (by_pillow, "a file could not be written (No space left on device); make space there and start again"),
        (by_safetensors, "a file could not be written (No space left on device); make space there and start again"),
        (
            not_permitted,
            "reports/metrics.json could not be opened (Permission denied); correct its permissions and start again",
        ),
    ],
    ids=["numpy", "pillow", "safetensors", "permissions"],
)
def test_every_librarys_error_of_a_full_disk_becomes_one_sentence(write: Callable[[], None], says: str) -> None:
    with pytest.raises(Exception, match=r".") as error:
        write()
    assert str(disk_trouble(error.value)) == says


def test_other_errors_are_no_trouble_of_the_disk() -> None:
    assert disk_trouble(ValueError("3 requested and 2 written")) is None
    assert disk_trouble(FileNotFoundError(errno.ENOENT, "No such file or directory")) is None


FULL = (
    r"a file below /a/project, or a temporary one, could not be written \(No space left on device\); make space there"
)


def test_an_error_without_a_file_names_the_folder_in_which_the_program_works() -> None:
    with pytest.raises(OSError, match=r".") as error:
        by_numpy()
    assert re.match(FULL, str(disk_trouble(error.value, below=Path("/a/project"))))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("[Errno 28] No space left on device", FULL),
        ("unexpected error - [Errno 28] No space left on device Having any troubles?", FULL),
        ("unexpected error - database or disk is full", FULL),
        (
            "[Errno 30] Read-only file system: '/a/project/.dvc/tmp/it\"s'",
            r"/a/project/\.dvc/tmp/it\"s could not be written \(Read-only file system\); mount that disk",
        ),
    ],
    ids=["words", "unexpected", "sqlite", "file"],
)
def test_what_another_program_says_of_a_disk_becomes_the_same_sentence(said: str, says: str) -> None:
    assert re.match(says, str(disk_trouble_in(said, below=Path("/a/project"))))


def test_what_another_program_says_of_other_errors_stays() -> None:
    assert disk_trouble_in("[Errno 2] No such file or directory: 'dvc.yaml'", below=Path("/a/project")) is None
