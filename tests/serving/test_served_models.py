"""A running server follows the champion, or says that there is another one, and never stops answering for that."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from site_of_models import RECORD, Files, running, served_from
from waiting import wait_for

from ddpm.serving.answering import RefusedError


@pytest.fixture
def files(tmp_path: Path, tiny_model: Callable[..., str]) -> Files:
    """Three versions; the first is the champion."""
    files = Files(tmp_path)
    for seed, number in enumerate("123"):
        tiny_model(tmp_path / f"{number}.safetensors", seed=seed)
        files.register(RECORD)
    files.move(action="promote", version="1", by="Ann", reason="first")
    return files


def promote(files: Files, number: str) -> None:
    files.move(action="promote", version=number, by="Ann", reason="better")


def test_a_new_champion_takes_over_while_calls_run_and_none_is_lost(files: Files) -> None:
    models = served_from(files)
    inside, leave = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        inside.set()
        leave.wait()

    with running(models) as site:
        models.follow(every=0.05)
        hook = models.current.answering.model.network.register_forward_pre_hook(wait)
        versions: list[str] = []
        early = threading.Thread(target=lambda: versions.append(site.prediction(steps=1)["model"]["version"]))
        early.start()
        inside.wait()
        promote(files, "2")
        wait_for(lambda: models.current.number == "2")
        assert site.prediction(steps=1)["model"]["version"] == "2"
        assert site.get("/model").json["model"]["version"] == "2"
        assert b"ddpm version 2" in site.get().content
        leave.set()
        early.join()
        hook.remove()
        assert versions == ["1"]
        files.move(action="rollback", version="1", by="Ann", reason="worse")
        wait_for(lambda: models.current.number == "1")
        assert models.notice is None


def test_a_champion_that_cannot_be_loaded_leaves_the_old_one_and_says_so_without_paths(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    models = served_from(files)
    good = (files.folder / "2.safetensors").read_bytes()
    (files.folder / "2.safetensors").write_bytes(good[:1000])
    promote(files, "2")
    with running(models) as site:
        for _ in range(3):
            models.look()
        assert site.prediction(steps=1)["model"]["version"] == "1"
        notice = site.post({"inputs": [{"steps": 1}]}).json["notice"]
        assert notice == (
            "version 2 is the champion but could not be loaded (see the server's log); version 1 still answers"
        )
        assert notice in site.get().content.decode().replace("&#x27;", "'")
        assert len(caplog.records) == 1, "it is tried and logged once, not at every look"
        assert str(files.folder) in caplog.text
        (files.folder / "2.safetensors").write_bytes(good)
        models._failed = ("2", 0.0)  # as after RETRY_SECONDS
        models.look()
        assert site.prediction(steps=1)["model"]["version"] == "2"
        assert "notice" not in site.post({"inputs": [{"steps": 1}]}).json


def test_a_fixed_version_says_that_there_is_another_champion(files: Files) -> None:
    models = served_from(files, number="1")
    models.look()
    assert models.notice is None
    promote(files, "3")
    models.look()
    assert models.current.number == "1"
    assert models.notice == (
        "version 3 is the champion now; this server was started with version 1 and stays with it until it is started "
        "again"
    )


def test_a_registry_that_does_not_answer_stops_nothing(files: Files) -> None:
    models = served_from(files)
    files.is_silent = True
    models.look()
    assert models.notice is not None
    assert "the registry did not answer at" in models.notice
    assert "/root/secret" not in models.notice
    files.is_silent = False
    models.look()
    assert models.notice is None
    del files.aliases["champion"]
    models.look()
    assert models.notice == "ddpm has no champion now; version 1 still answers"


def test_another_version_is_loaded_when_it_is_named_and_only_one_is_kept(files: Files) -> None:
    models = served_from(files)
    models.look()
    with running(models) as site:
        fields = {"seed": 5, "steps": 3}
        pictures = {number: site.prediction(version=number, **fields)["images"] for number in "123"}
        assert len({images[0] for images in pictures.values()}) == 3
        assert site.prediction(**fields)["images"] == pictures["1"]
        assert models._other is not None
        assert models._other.number == "3"
        for number, words in (("9", "expected one of: 3, 2, 1"), (2, "version is 2, expected"), (["2"], "expected")):
            answer = site.post({"inputs": [fields], "version": number})
            assert (answer.status, words in answer.json["message"]) == (400, True)
    (files.folder / "2.safetensors").unlink()
    with pytest.raises(RefusedError, match="version 2 could not be loaded, choose another; see the server's log"):
        models.named("2")


def test_versions_share_one_budget(files: Files) -> None:
    models = served_from(files)
    models.look()
    assert models.current.answering._budget is models.named("2").answering._budget
