"""The lock of the registry: one per store for every spelling of its address, and safe against other users."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm.errors import UserError
from ddpm.tracking.registry_lock import alone, lock_path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    return folder


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://mlflow.example:5000", "HTTP://MLflow.Example.:5000/"),
        ("http://mlflow.example:5000", "http://ann:secret@mlflow.example:5000"),
        ("https://mlflow.example/team", "https://mlflow.example:443//team/"),
        ("http://localhost:5000", "http://127.0.0.1:5000"),
        ("http://localhost:5000", "http://[::1]:5000/"),
        ("postgresql://ann:one@db/mlflow", "postgresql+psycopg2://bob:two@DB:5432/mlflow?sslmode=require"),
        ("postgresql://db:6000/mlflow", "postgresql:///mlflow?host=db&port=6000"),
        ("mysql://db/mlflow", "mysql+pymysql://ann@db:3306/mlflow"),
    ],
)
def test_a_server_has_one_lock_however_its_address_is_spelled(home: Path, one: str, other: str) -> None:
    assert lock_path(one) == lock_path(other)
    assert lock_path(one).parent == home / "ddpm"


def test_different_servers_have_different_locks(home: Path) -> None:
    addresses = ["http://a:5000", "http://a:5001", "https://a:5000", "http://b:5000", "http://a:5000/team"]
    addresses += ["postgresql://a/one", "postgresql://a/two", "mysql://a/one"]
    assert len({lock_path(address) for address in addresses}) == len(addresses)


def test_a_database_file_has_one_lock_however_its_path_is_spelled(project: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(project)
    spelled = [
        "sqlite:///mlflow.db",
        f"sqlite:///{project}/mlflow.db",
        f"sqlite:///{tmp_path}/link/mlflow.db?timeout=9",
    ]
    spelled += ["sqlite+pysqlite:///../a project/mlflow.db", f"sqlite:///file:{project}/mlflow.db?uri=true"]
    assert {lock_path(uri) for uri in spelled} == {project / ".state" / "registry.lock"}


def test_who_spells_the_store_otherwise_waits_too(home: Path) -> None:
    program = "from ddpm.tracking.registry_lock import alone\nwith alone(): print('held', flush=True); input()"
    told = os.environ | {"MLFLOW_TRACKING_URI": "http://ann:secret@MLFLOW.example:5000/"}
    held = subprocess.Popen(
        [sys.executable, "-c", program], env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    with open(lock_path("http://mlflow.example:5000")) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held.communicate("\n")
    with alone():
        pass


def test_a_planted_link_is_refused_and_what_it_points_to_is_as_it_was(home: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with alone():
        pass
    lock = lock_path("http://mlflow.example:5000")
    for plant in (lock.symlink_to, lock.hardlink_to):
        lock.unlink()
        plant(victim)
        with pytest.raises(UserError, match="there is a link"), alone() as note:
            note.write({"move": "away"})
        assert victim.read_text() == "precious"


def test_a_link_in_the_place_of_the_folder_is_refused(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    home.mkdir()
    (home / "ddpm").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="there is a link"), alone():
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_folder_and_the_lock_are_this_users_alone(home: Path) -> None:
    with alone():
        pass
    assert (home / "ddpm").stat().st_mode & 0o777 == 0o700
    assert lock_path("http://mlflow.example:5000").stat().st_mode & 0o777 == 0o600
    (home / "ddpm").chmod(0o777)
    with pytest.raises(UserError, match="others may write to it"), alone():
        pass


def test_a_pipe_in_the_place_of_the_lock_is_refused_and_not_waited_for(home: Path) -> None:
    (home / "ddpm").mkdir(parents=True, mode=0o700)
    os.mkfifo(lock_path("http://mlflow.example:5000"))
    with pytest.raises(UserError, match="it is not a regular file"), alone():
        pass


def test_what_was_noted_under_the_lock_is_there_for_the_next(home: Path) -> None:
    with alone() as note:
        assert note.read() == {}
        note.write({"name": "a name that is long"})
        note.write({"name": "é"})
    with alone() as note:
        assert note.read() == {"name": "é"}
        note.write({})
    lock_path("http://mlflow.example:5000").write_text('{"torn')
    with alone() as note:
        assert note.read() == {}


def test_nothing_is_made_in_the_temporary_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with alone():
        pass
    assert list((tmp_path / "tmp").iterdir()) == []
