"""A version is served by a process of its own, from a real store, before it becomes champion."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from fixed_contest import FixedContest, promote
from keys import key_pair
from shelf import REGISTRY, Shelf
from versions_to_serve import register
from waiting import HANG_SECONDS

from ddpm import cli
from ddpm.canary.examine import Examination
from ddpm.params import load as load_params
from ddpm.promotion import registry
from ddpm.promotion.judge import judge
from ddpm.signing.signature import PrivateKey


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    return Shelf(project, tiny_model)


def canary(**limits: float) -> Examination:
    patient = {"max_start_seconds": HANG_SECONDS, "max_seconds": HANG_SECONDS}
    return Examination(limits=replace(load_params().canary, **(patient | limits)), device="cpu")


def judged(shelf: Shelf, number: str, **limits: float) -> tuple[str, tuple[str, ...]]:
    """The verdict of the gate and its reasons, about a first version that the rules let pass."""
    found = judge(
        registry.version(REGISTRY, number),
        REGISTRY,
        rules=promote(),
        begin=lambda *_: FixedContest(),
        folder=shelf.project / "downloads",
        canary=canary(**limits),
    )
    return found.verdict, found.reasons


def test_a_version_that_answers_as_when_it_was_registered_becomes_champion(shelf: Shelf) -> None:
    before = psutil.Process().children()
    register(shelf, 0)
    verdict, reasons = judged(shelf, "1")
    told = "\n".join(reasons)
    assert (verdict, shelf.champion()) == ("promoted", "1"), told
    assert "canary: 8 of 8 kept pictures were drawn again bit for bit" in told
    assert re.search(r"64 images have the kernel distance \S+ from the measured ones", told)
    stored = registry.version(REGISTRY, "1").canary()
    assert stored["outcome"] == "passed"
    assert stored["figures"]["memory_bytes"] > 100_000_000
    assert 0 < stored["figures"]["seconds_of_one_image"] < stored["figures"]["seconds_to_start"]
    assert not [child for child in psutil.Process().children() if child not in before], "the served process has ended"


def test_one_that_draws_other_pictures_is_refused_and_a_person_may_skip_that_for_the_record(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    register(shelf, 0, as_if=1)
    verdict, reasons = judged(shelf, "1", max_seconds=0.001, max_memory_bytes=1000)
    told = "\n".join(reasons)
    assert (verdict, shelf.champion()) == ("kept", None), told
    assert "8 of 8 pictures differ from those that were kept" in told
    assert re.search(r"expected at most \S+ \(canary.max_distance\)", told)
    assert re.search(r"an image takes \S+ seconds, expected at most 0.001 \(canary.max_seconds\)", told)
    assert "(canary.max_memory_bytes)" in told
    assert registry.version(REGISTRY, "1").canary()["outcome"] == "failed"
    assert "8 of 8 pictures differ" in registry.version(REGISTRY, "1").tags["reasons"]

    assert cli.main(["promote", "1", "--reason", "looked at it", "--skip-canary"]) == 0
    assert shelf.champion() == "1"
    assert REGISTRY.history()[-1].reason == "looked at it (without the canary)"
    assert registry.version(REGISTRY, "1").canary()["outcome"] == "skipped"


@pytest.mark.slow
def test_a_person_s_promotion_is_refused_by_the_canary_with_the_way_to_skip_it(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    register(shelf, 0, as_if=1)
    assert cli.main(["promote", "1", "--reason", "it will be good"]) == 1
    said = capsys.readouterr().err
    assert "version 1 of ddpm does not become champion: canary: 8 of 8 pictures differ" in said
    assert "--skip-canary`" in said
    assert shelf.champion() is None


@pytest.mark.slow  # tests/tracking/test_signatures.py has what a server says of such a version
def test_one_that_nobody_signed_is_kept_where_a_signature_is_asked_for(shelf: Shelf) -> None:
    register(shelf, 0)
    keys = key_pair(shelf.project, "ours")
    asked = "verify_key: null"
    assert asked in Path("params.yaml").read_text()
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace(asked, f"verify_key: {keys.public}"))
    verdict, reasons = judged(shelf, "1")
    assert (verdict, shelf.champion()) == ("kept", None)
    assert "error: version 1 of ddpm has no signature" in reasons[-1]
    assert registry.version(REGISTRY, "1").canary()["outcome"] == "failed"


@pytest.mark.slow
def test_one_that_is_signed_passes_where_a_signature_is_asked_for(shelf: Shelf) -> None:
    register(shelf, 0)
    keys = key_pair(shelf.project, "ours")
    REGISTRY.sign("1", PrivateKey(keys.private))
    Path("params.yaml").write_text(
        Path("params.yaml").read_text().replace("verify_key: null", f"verify_key: {keys.public}")
    )
    verdict, reasons = judged(shelf, "1")
    assert (verdict, shelf.champion()) == ("promoted", "1"), reasons


@pytest.mark.slow
def test_one_that_cannot_be_served_is_kept_with_the_words_of_the_server(shelf: Shelf) -> None:
    register(shelf, 0)
    shelf.file(0).with_name("gone").write_bytes(b"")
    [file] = shelf.project.glob("mlartifacts/**/artifacts/model.safetensors")
    file.write_bytes(file.read_bytes()[:1000])
    verdict, reasons = judged(shelf, "1")
    assert (verdict, shelf.champion()) == ("kept", None)
    assert "is not the file that was registered as version 1 of ddpm" in reasons[-1]


@pytest.mark.slow
def test_of_another_kind_of_machine_the_pictures_are_not_compared_and_the_distance_decides(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(shelf, 0, as_if=1)
    monkeypatch.setattr("ddpm.canary.examine.kind_of_machine", lambda device: {"device": "another"})
    verdict, reasons = judged(shelf, "1")
    told = "\n".join(reasons)
    assert "its 8 kept pictures are of another kind of machine (device cpu" in told
    assert "(canary.max_distance)" in told
    assert verdict == "kept"


@pytest.mark.slow
def test_an_older_version_without_pictures_is_served_and_timed(shelf: Shelf) -> None:
    register(shelf, 1)
    older = shelf.register(0, {**(registry.version(REGISTRY, "1").record() or {}), "fid": 9.0})
    assert older.number == "2"
    verdict, reasons = judged(shelf, "2")
    assert (verdict, shelf.champion()) == ("promoted", "2")
    assert "version 2 was registered without pictures and features" in "\n".join(reasons)


@pytest.mark.slow
def test_what_is_too_much_work_for_one_call_is_asked_for_in_several(shelf: Shelf) -> None:
    register(shelf, 0)
    text = Path("params.yaml").read_text()
    work = 10 * 8 * 8  # one image of this model
    changed = re.sub(r"max_work: \d+", f"max_work: {3 * work}", text)
    Path("params.yaml").write_text(re.sub(r"max_work_together: \d+", f"max_work_together: {6 * work}", changed))
    verdict, reasons = judged(shelf, "1")
    assert verdict == "promoted", reasons
