"""A file that is written as a whole, whatever is in its way."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpm.files import write_text


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
