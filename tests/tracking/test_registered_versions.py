"""The versions of a registered model in MLflow: their content, and one change at a time."""

import fcntl
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from shelf import REGISTRY, Shelf, record
from waiting import HANG_SECONDS

from ddpm.errors import UserError
from ddpm.promotion import commands, registry


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    return Shelf(project, tiny_model)


def test_the_same_model_again_is_the_same_version_with_its_metrics_brought_up_to_date(shelf: Shelf) -> None:
    first = shelf.register(0, record(10.0), data_hash="d")
    again = shelf.register(0, record(9.0), data_hash="d")
    other = shelf.register(1, record(10.0))
    assert (first.number, again.number, other.number) == ("1", "1", "2")
    assert (first.record(), again.records()) == (record(10.0), [record(9.0)])
    assert again.tags["data_hash"] == "d"
    assert again.run_id == shelf.run_id


def test_versions_are_listed_newest_first_with_their_aliases(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 10.0)
    assert [(v.number, v.aliases) for v in REGISTRY.versions()] == [("2", ()), ("1", ("champion",))]


def test_where_nothing_is_registered_there_are_no_versions_no_champion_and_no_history(project: Path) -> None:
    assert REGISTRY.versions() == []
    assert registry.champion(REGISTRY) is None
    assert REGISTRY.history() == []
    with pytest.raises(UserError, match=r"has no version 1 .*there are: none"):
        registry.version(REGISTRY, "1")


def test_one_promotion_waits_for_another(shelf: Shelf) -> None:
    shelf.judged(0, 100.0)
    with open(shelf.project / ".state" / "registry.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        promotion = threading.Thread(target=commands.promote, args=(REGISTRY, "1"), kwargs={"reason": "now"})
        promotion.start()
        time.sleep(0.5)
        assert shelf.champion() is None
    promotion.join(HANG_SECONDS)
    assert shelf.champion() == "1"


def test_a_model_file_that_was_changed_in_the_store_is_refused(shelf: Shelf) -> None:
    version = shelf.register(0, record(10.0))
    file = REGISTRY.download(version, shelf.project)
    assert file.read_bytes() == shelf.content(0)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match="is not the file that was registered as version 1"):
        REGISTRY.download(version, shelf.project)
    file.unlink()
    with pytest.raises(UserError, match="has 0 model files"):
        REGISTRY.download(version, shelf.project)


def test_the_history_is_read_back_from_tags_that_an_sql_store_can_hold(shelf: Shelf) -> None:
    shelf.judged(0, 100.0)
    commands.promote(REGISTRY, "1", reason="x" * 20000)
    tags = shelf.client.get_registered_model("ddpm").tags
    assert list(tags) == ["promotion.000001"]
    assert len(tags["promotion.000001"]) < 5000
    assert json.loads(tags["promotion.000001"])["version"] == "1"
