"""`ddpm versions`, `ddpm history` and `ddpm compare` as a person uses them, and the pages that they leave in MLflow."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from shelf import PROTOCOL, REGISTRY, Shelf, moved_by_hand, record

from ddpm import cli
from ddpm.promotion import commands, registry
from ddpm.tracking import descriptions

OTHER = PROTOCOL | {"n": 200}


@pytest.fixture
def shelf(project: Path, tiny_model: Callable[..., str]) -> Shelf:
    return Shelf(project, tiny_model)


@pytest.fixture
def ddpm(capsys: pytest.CaptureFixture[str]) -> Callable[[str], list[str]]:
    def run(words: str) -> list[str]:
        assert cli.main(shlex.split(words)) == 0, capsys.readouterr().err
        return capsys.readouterr().out.splitlines()

    return run


def test_versions_never_puts_two_protocols_under_one_letter_and_keeps_both_of_a_version(
    shelf: Shelf, ddpm: Callable[[str], list[str]]
) -> None:
    shelf.judged(0, 10.0)
    shelf.register(0, record(11.0, protocol=OTHER))
    shelf.register(1, record(9.0))
    head, second, first, again, _, *legend = ddpm("versions")
    at = head.split().index("protocol") - 1  # version 2 and its metrics have no alias and no decision
    assert second.split()[:3] == ["2", "A", "9"]
    assert first.split()[:5] == ["1", "champion", "promoted", "B", "11"]
    assert again.split()[:3] == ["1", "A", "10"]
    assert at > 0
    assert legend == [
        "protocol A: 100 generated images (seed 0)",
        "protocol B: 200 generated images (seed 0); it differs from A in n",
    ]


def test_the_history_has_every_champion_with_its_reason_and_its_metric(
    shelf: Shelf, ddpm: Callable[[str], list[str]]
) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 8.0)
    commands.rollback(REGISTRY, reason="blurred\n\x1b[31meights", by="Ann")
    moved_by_hand(shelf, None)
    shelf.judged(2, 30.0)  # the gate notes the move by hand
    head, *rows = ddpm("history")[:5]
    assert head.split()[:3] == ["when", "action", "version"]
    assert "alias removed" in rows[0]
    assert re.search(r"rolled back to +1 +2 +10 +8 +A +Ann +blurred; ?\[31meights$", rows[1])
    assert re.search(r"promoted +2 +1 +8 +10 +A +gate, run by \S+ +FID", rows[2])
    assert re.search(r"promoted +1 +none +10 +A", rows[3])


def test_a_person_approves_and_rejects_by_command_and_the_history_says_who_and_why(
    shelf: Shelf, ddpm: Callable[[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 8.0, approval="ask")
    page = shelf.client.get_model_version("ddpm", "2").description
    assert "Version 2 waits for a person's decision" in page
    assert '`ddpm approve 2 --reject --reason "why"`' in page
    assert ddpm("approve 2 --reject --reason blurred --by Ann") == ["version 2 of ddpm is rejected"]
    assert cli.main(shlex.split("approve 2 --skip-canary --reason sharp")) == 1
    assert "version 2 of ddpm was rejected already, by Ann on 20" in capsys.readouterr().err
    shelf.judged(2, 7.0, approval="ask")
    [told] = ddpm("approve 3 --skip-canary --reason sharp --by Bob")
    assert told == "version 3 of ddpm is approved: it is now the champion and replaces version 1"
    _, yes, no, _ = ddpm("history")[:4]
    assert re.search(r"promoted +3 +1 +7 +10 +A +Bob +sharp .without the canary.$", yes)
    assert re.search(r"rejected +2 +1 +8 +10 +A +Ann +blurred$", no)
    assert "rejected" in shelf.client.get_registered_model("ddpm").description
    assert shelf.client.get_run(shelf.run_id).data.tags["decision"] == "promoted as version 3 of ddpm"


def test_the_history_has_the_metrics_of_the_time_of_the_decision(
    shelf: Shelf, ddpm: Callable[[str], list[str]]
) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 8.0)
    shelf.register(1, record(3.0, protocol=OTHER))
    assert re.search(r"promoted +2 +1 +8 +10 +A +gate", ddpm("history")[1])


def test_versions_says_who_cannot_be_approved_any_more_without_changing_anything(
    shelf: Shelf, ddpm: Callable[[str], list[str]]
) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 8.0, approval="ask")
    assert re.search(r"^2 +challenger +pending +A", ddpm("versions")[1])
    shelf.register(2, record(7.0))
    commands.promote(REGISTRY, "3", reason="by hand")
    row = ddpm("versions")[2]
    assert re.search(r"^2 +challenger +pending, overtaken +A", row)
    assert "overtaken: it was compared with version 1, and version 3 is the champion now" in row
    assert REGISTRY.rulings() == []


BOTH = """
import os, sys
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store, torch  # once for both
from ddpm import cli

def answer(name):
    os.dup2(os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT), 2)
    return cli.main([*sys.argv[1:], "--by", name])

children = [os.fork() or sys.exit(answer(name)) for name in ("Ann", "Bob")]
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def test_of_two_approvals_at_once_one_moves_the_alias_and_the_other_hears_who_did(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 8.0, approval="ask")
    words = ["approve", "2", "--skip-canary", "--reason", "sharp"]
    done = subprocess.run([sys.executable, "-c", BOTH, *words], stdout=subprocess.PIPE, text=True, check=True)
    codes = done.stdout.splitlines()[-1].split()
    assert sorted(codes) == ["0", "1"]
    winner, other = ("Ann", "Bob") if codes[0] == "0" else ("Bob", "Ann")
    assert f"is the champion already, promoted by {winner} on" in (shelf.project / f"{other}.txt").read_text()
    assert [(move.version, move.by) for move in REGISTRY.history()][1:] == [("2", winner)]


def test_the_messages_advise_commands_that_run_as_printed(
    shelf: Shelf,
    ddpm: Callable[[str], list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ddpm.cli.registry.canary_here", lambda: None)  # tests/canary has the tests with it
    shelf.judged(0, 100.0)
    assert cli.main(["history"]) == 1
    [advice] = re.findall(r"`(ddpm [^`]*)`", capsys.readouterr().err)
    assert ddpm(advice.removeprefix("ddpm ")) == ["version 1 of ddpm is now the champion"]
    shelf.judged(1, 8.0)
    [told] = ddpm("rollback")
    [advice] = re.findall(r"`(ddpm [^`]*)`", told)
    assert ddpm(advice.removeprefix("ddpm "))[0].startswith("version 2 of ddpm is now the champion")
    commands.rollback(REGISTRY, reason="again")
    assert cli.main(["rollback"]) == 1
    [listing, advice] = re.findall(r"`(ddpm [^`]*)`", capsys.readouterr().err)
    assert ddpm(listing.removeprefix("ddpm "))
    assert ddpm(advice.removeprefix("ddpm "))[0].startswith("version 2 of ddpm is now the champion")


def test_two_versions_are_compared_with_the_same_seed_and_the_picture_is_kept(
    shelf: Shelf, ddpm: Callable[[str], list[str]]
) -> None:
    shelf.judged(0, 10.0)
    shelf.register(1, record(9.0, protocol=OTHER))
    told = "\n".join(ddpm("compare 1 2 --seed 3 --number 4"))
    assert "Only version 1 was measured like this: 100 generated images" in told
    assert "Only version 2 was measured like this: 200 generated images" in told
    with Image.open("compare-1-2.png") as picture:
        assert picture.width > 2 * 2 * 48
        once = picture.tobytes()
    kept = {file.path for file in shelf.client.list_artifacts(shelf.run_id, "comparisons")}
    assert kept == {"comparisons/compare-1-2.png", "comparisons/compare-1-2.md"}
    ddpm("compare 1 2 --seed 3 --number 4")
    with Image.open("compare-1-2.png") as picture:
        assert picture.tobytes() == once
    assert cli.main(["compare", "1", "1"]) == 1


def test_a_page_is_written_at_every_decision_and_keeps_what_a_person_wrote(shelf: Shelf) -> None:
    def page(number: str) -> str:
        return shelf.client.get_model_version("ddpm", number).description

    shelf.register(0, record(10.0))
    assert "Version 1 is not judged yet" in page("1")
    shelf.judged(0, 10.0)
    assert "Version 1 became the champion, decided by gate" in page("1")
    shelf.client.update_model_version("ddpm", "1", description="Ann: my favourite")
    shelf.judged(1, 8.0)
    assert page("1").endswith("Text below this line is kept. -->\n\nAnn: my favourite")
    assert "version 2 replaced it" in page("1")
    assert "| FID, lower is better&emsp; | 8&emsp; | 10&emsp; | 4&emsp; |" in page("2")
    commands.rollback(REGISTRY, reason="<b>blurred</b> | `eights`", by="Ann")
    assert page("1").endswith("kept. -->\n\nAnn: my favourite")
    assert page("1").count("Ann: my favourite") == page("1").count("written by ddpm") == 1
    assert page("2").startswith("Version 2 was the champion and was rolled back, decided by Ann")
    assert "<b>" not in page("2")
    shelf.client.update_model_version("ddpm", "2", description=page("2").replace("rolled", "kicked"))
    commands.promote(REGISTRY, "2", reason="it was the camera")
    assert page("2").startswith("Version 2 became the champion")
    assert "was the champion and was kicked back, decided by Ann" in page("2"), "a changed page is a person's text"
    about = shelf.client.get_registered_model("ddpm").description
    assert "rolled back to" in about
    assert "<b>" not in about


def test_a_page_fits_into_mlflow_and_a_lost_document_does_not_stop_a_rollback(shelf: Shelf) -> None:
    shelf.judged(0, 10.0)
    shelf.judged(1, 8.0)
    commands.promote(REGISTRY, "1", reason="x" * 20000)
    for number in ("1", "2"):
        assert len(shelf.client.get_model_version("ddpm", number).description) <= descriptions.MAX_CHARACTERS
    assert len(shelf.client.get_registered_model("ddpm").description) <= descriptions.MAX_CHARACTERS
    shelf.client.update_model_version("ddpm", "1", description="y" * 4900)
    model = shelf.project / "mlartifacts"
    for file in model.rglob("documents/*.json"):
        file.write_text("{}")
    from ddpm.tracking import documents

    documents._content.cache_clear()
    assert commands.rollback(REGISTRY, reason="blurred").version == "2"
    assert "is damaged; write it again" in shelf.client.get_model_version("ddpm", "2").description
    assert shelf.client.get_model_version("ddpm", "1").description == "y" * 4900
    assert registry.champion(REGISTRY) is not None


def test_a_version_has_few_tags_and_its_model_card(shelf: Shelf) -> None:
    version = shelf.judged(0, 10.0).version
    assert len(version.tags) <= 12
    assert not any("{" in value for value in version.tags.values())
    file = REGISTRY.download(version, shelf.project)
    card = (file.parents[1] / "README.md").read_text()
    assert card.startswith("---\n")
    assert "FID, lower is better | 10 |" in card
