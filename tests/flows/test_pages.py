"""The page of a run: short enough to read, with commands that run in any folder."""

from datetime import UTC, datetime
from pathlib import Path

import pages
import pytest
from prefect.states import Failed

from ddpm.promotion.registry import Version


def test_of_a_hundred_reasons_the_page_shows_the_most_telling_ones() -> None:
    text = pages.of_failure(Failed(message="no"), [f"src/{k} modified" for k in range(100)]).text
    assert "- src/0 modified\n" in text
    assert "- and 88 more, all in the log of the run" in text
    assert "src/50" not in text


def test_the_command_that_opens_mlflow_names_the_store_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    version = Version(name="ddpm", number="1", run_id="r", created=datetime.now(UTC), tags={}, aliases=())
    (line,) = pages._mlflow_links(version)
    assert "sqlite:////" in line, "in another folder, a relative path makes an empty store"
