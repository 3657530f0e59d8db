"""A running server follows the champion, or says that there is another one, and never stops answering for that."""

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from site_of_models import RECORD, Files, running, served_from
from waiting import HANG_SECONDS, wait_for

from ddpm.serving.calls import Call, RefusedError


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
    refusal = "version 2 could not be loaded, choose another; see the server's log"
    with pytest.raises(RefusedError, match=refusal), models.named("2"):
        pass

    def fail(found: object) -> None:
        raise OSError(28, "No space left on device", "/root/secret")

    models._load = fail  # type: ignore[assignment]
    with running(models) as site:
        answer = site.post({"inputs": [fields], "version": "2"})
        assert (answer.status, answer.json["message"]) == (400, refusal)


def test_a_further_version_waits_until_the_one_beside_is_free_and_a_call_that_waits_can_end(files: Files) -> None:
    models = served_from(files)
    models.look()
    load, loaded = models._load, []
    assert load is not None

    def counted(found: Any) -> Any:
        model = load(found)
        loaded.append(weakref.ref(model.network))
        return model

    models._load = counted
    impatient = Call(60)
    with models.named("2"), models.named("2"), models.named("1") as served:
        assert served is models.current
        impatient.give_up()
        with pytest.raises(RefusedError, match="disconnected"), models.named("3", impatient):
            pass
        assert len(loaded) == 1
        third = threading.Thread(target=lambda: seen.append(models.named("3").__enter__().number))
        seen: list[str | None] = []
        third.start()
        wait_for(models._loading.locked)
        with pytest.raises(RefusedError, match="longer than 0"), models.named("2", Call(0.5)):
            pass  # behind the one that waits
        assert len(loaded) == 1
    third.join(HANG_SECONDS)
    gc.collect()
    assert (seen, [network() is not None for network in loaded]) == (["3"], [False, True])


def test_the_page_does_not_wait_for_the_registry(files: Files) -> None:
    models = served_from(files)
    models.look()
    files.is_silent = True
    with running(models) as site:
        assert b"version 2, FID 0.5" in site.get().content


def test_versions_share_one_budget(files: Files) -> None:
    models = served_from(files)
    models.look()
    with models.named("2") as other:
        assert models.current.answering._budget is other.answering._budget
