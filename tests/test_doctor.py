"""`ddpm doctor` lists what killed processes left, changes nothing without --mend, and never touches living work."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ddpm.cli import main
from ddpm.pipeline.process_identity import ProcessIdentity
from ddpm.tracking import abandoned_runs
from ddpm.tracking.experiment import experiment_id
from ddpm.tracking.store import connect

ROOT = Path(__file__).parents[1]
HALF = (
    ".state/train/0123/checkpoint-000000000512.part",
    ".state/train/0123/.tmpabc",
    "data/.prepared.part/train/shard.npy",
    "models/model.safetensors.part",
    "reports/metrics.json.part",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def doctor(*words: str) -> int:
    return main(["doctor", *words])


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_healthy_folder_needs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(folder)
    assert doctor() == 0
    assert capsys.readouterr().out == "nothing needs mending\n"
    assert files(folder) == before


def test_half_made_files_and_torn_checkpoints_are_listed_and_removed_by_mend_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = hashlib.sha256(b"whole").hexdigest()[:16]
    kept = write(folder / f".state/train/0123/checkpoint-000000000256-{whole}.safetensors", b"whole")
    torn = write(folder / f".state/train/0123/checkpoint-000000000512-{whole}.safetensors", b"who")
    (kept.parent / f"part-000000000512-01234567-00000-{whole}.safetensors").symlink_to("nothing")
    (folder / ".state/shards/locks").mkdir(parents=True)
    fetching = write(folder / f".state/shards/{whole}.5.part")
    for name in HALF:
        write(folder / name)
    write(folder / ".dvc/tmp/rwlock", b"")
    before = files(folder)
    assert doctor() == 1
    listed = capsys.readouterr().out
    assert listed.count("was being written when its process ended") == len(HALF)
    assert f"{torn.relative_to(folder)} is damaged" in listed
    assert ".dvc/tmp/rwlock was left incomplete" in listed
    assert files(folder) == before

    assert doctor("--mend") == 0
    assert kept.exists()
    assert fetching.exists(), "the cache of shards belongs to all processes of the machine"
    left = files(folder) - {".state/pipeline.lock", ".state/stage.lock"}
    gone = {*HALF, str(torn.relative_to(folder)), ".dvc/tmp/rwlock"}
    assert left == before - gone
    assert doctor() == 0


def test_a_folder_in_use_is_not_touched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = write(folder / HALF[0])
    claims = "from ddpm.pipeline.workspace import claim\nwith claim('a test'): print(1, flush=True); sys.stdin.read()"
    program = f"import sys\n{claims}"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert doctor("--mend") == 0
        assert "is in use by a test (process" in capsys.readouterr().out
        assert half.exists()
        owner.communicate()
    assert doctor("--mend") == 0
    assert not half.exists()


def test_a_run_of_mlflow_is_ended_only_if_its_process_has(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = connect(make=True)
    number = experiment_id(client, "ddpm")
    own = ProcessIdentity.of()
    processes = {
        "lives": own,
        "killed": replace(own, ticks="1"),
        "elsewhere": replace(own, host="another", machine="another", place="boot pid:[1]"),
    }
    runs = {name: client.create_run(number, run_name=name).info.run_id for name in (*processes, "unsigned")}
    for name, process in processes.items():
        client.set_tag(runs[name], abandoned_runs.PROCESS_TAG, json.dumps(process.record()))

    def status() -> dict[str, str]:
        return {name: client.get_run(run).info.status for name, run in runs.items()}

    assert doctor() == 1
    assert set(status().values()) == {"RUNNING"}
    assert "'lives'" not in capsys.readouterr().out
    assert doctor("--mend") == 1, "two are left for a person"
    assert status() == dict.fromkeys(runs, "RUNNING") | {"killed": "KILLED"}
    said = capsys.readouterr()
    assert "its status is KILLED now" in said.out
    assert "2 things are left, which only a person can judge" in said.err
