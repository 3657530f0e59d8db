"""`ddpm serve --shadow` and `ddpm shadow`, with a real store: what the shadow drew is there afterwards."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shelf import REGISTRY, Shelf, record
from test_page_command import fetch, started
from waiting import wait_for

from ddpm import cli
from ddpm.promotion import commands, registry

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    """Two versions, the first is the champion."""
    shutil.copy(ROOT / "params.yaml", project)
    shelf = Shelf(project, tiny_model)
    for seed in range(2):
        shelf.register(seed, record(8.0))
    commands.promote(REGISTRY, "1", reason="first")
    return shelf


def figures(number: str, **changes: Any) -> dict[str, Any]:
    known = {"requests": 7, "errors": 0, "seconds_of_one_image": 0.0123, "distance": 1.5, "distance_by_chance": 2.5}
    return {"version": number} | known | changes


@pytest.mark.usefixtures("shelf")
def test_the_figures_of_a_shadow_are_shown_beside_those_of_the_served_version(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["shadow"]) == 1
    assert "ddpm has no version that was a shadow yet; begin with `ddpm serve --shadow NUMBER`" in (
        capsys.readouterr().err
    )
    both = {"served": figures("1"), "shadow": figures("2", errors=3, distance=None), "dropped": 5}
    REGISTRY.keep_shadow("2", both)
    assert registry.version(REGISTRY, "2").shadow() == both
    assert cli.main(["shadow", "2"]) == 0
    rows = {line[:16].strip(): line.split()[-2:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert rows["requests"] == ["7", "7"]
    assert rows["errors"] == ["0", "3"]
    assert rows["seconds of an im"] == ["0.0123", "0.0123"]
    assert cli.main(["shadow", "1"]) == 1
    for wrong in (["--shadow", "1"], ["--shadow", "9"], ["--shadow", "2", "--model", "model.safetensors"]):
        assert cli.main(["serve", *wrong]) == 1


@pytest.mark.slow  # the real command
def test_a_server_with_a_shadow_stores_what_both_drew_when_it_ends(shelf: Shelf) -> None:
    with started(shelf.project, "serve", "--shadow", "2") as (process, url):
        for _ in range(3):
            answer = json.loads(fetch(f"{url}invocations", {"inputs": [{"number": 2}]}))
            assert answer["predictions"][0]["model"]["version"] == "1"
        wait_for(lambda: json.loads(fetch(f"{url}model"))["shadow"]["shadow"]["requests"] == 3, process=process)
    stored = registry.version(REGISTRY, "2").shadow()
    assert (stored["served"]["version"], stored["served"]["requests"]) == ("1", 3)
    assert (stored["shadow"]["version"], stored["shadow"]["requests"], stored["shadow"]["errors"]) == ("2", 3, 0)
