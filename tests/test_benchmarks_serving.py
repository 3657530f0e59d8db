"""The benchmark of the served champion under load: what its clients count, and a short run of the whole."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from waiting import HANG_SECONDS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def serving_load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "serving"))
    import serving_load

    return serving_load


def test_eight_clients_are_all_answered_while_the_champion_changes_and_equal_seeds_give_equal_images(
    serving_load: Any, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    """The server and its clients are real; the registry is in memory, so that it is looked at without a wait."""
    from site_of_models import RECORD, Files, running, served_from

    files = Files(tmp_path)
    for seed, number in enumerate("12"):
        tiny_model(tmp_path / f"{number}.safetensors", seed=seed)
        files.register(RECORD)
    files.move(action="promote", version="1", by="Ann", reason="first")
    models = served_from(files)
    moves = [
        lambda: files.move(action="promote", version="2", by="Ann", reason="better"),
        lambda: files.move(action="rollback", version="1", by="Ann", reason="worse"),
    ]
    with running(models) as site:
        models.follow(every=0.05)
        load = serving_load.asked(site.port, clients=8, seconds=3, images=1, moves=moves)
    assert set(load.outcomes) == {"200"}, "no call without an answer, no error, nothing refused"
    assert set(load.versions) == {"1", "2"}
    after = load.versions[load.versions.index("2") :]
    assert "1" in after, "the champion before is back; the last answer may be a slow one, begun before that"
    assert (load.other, len(load.seconds)) == (0, load.outcomes["200"])


def test_a_server_that_goes_away_and_a_wrong_image_are_counted(serving_load: Any) -> None:
    load = serving_load.asked(1, clients=1, seconds=0.2, images=1, moves=[])
    assert set(load.outcomes) == {"ConnectionRefusedError"}


@pytest.mark.slow  # half a minute: the real command, and 10 seconds until it looks at the registry again
def test_the_benchmark_serves_a_registered_champion_and_drops_no_call(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "model.safetensors")
    output = tmp_path / "load.md"
    arguments = ["--seconds", "40", "--images", "1", "--clients", "2", "--rounds", "2"]
    command = [sys.executable, "benchmarks/serving_load.py", "--model", str(tmp_path / "model.safetensors"), *arguments]
    done = subprocess.run(
        [*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    [row] = [line for line in text.splitlines() if line.startswith("| 1 ") and " x " in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert re.fullmatch(r"[\d,]+ x 200", cells[6])
    assert " by 1" in cells[7]
    assert " by 2" in cells[7]
    assert cells[8] == "0"
