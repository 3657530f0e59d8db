"""A decision is told with its author, its reasons, and commands that run as printed."""

import shlex
from datetime import UTC, datetime

import pytest
from hostile import HOSTILE
from markdown_it import MarkdownIt

from ddpm.cli import parser
from ddpm.promotion.advice import approve_command, promote_command, reconsider_command
from ddpm.promotion.registry import Version
from ddpm.reporting import decisions


def version(number: str = "2", name: str = "ddpm", **tags: str) -> Version:
    return Version(name, number, (), tags, None, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_decision_names_the_version_the_verdict_the_author_and_each_reason() -> None:
    decided = {"decision": "kept", "decided_by": "gate", "decided_at": "2026-11-22T03:04:05+00:00"}
    page = decisions.decision(version(reasons="worse\ntoo far; really", **decided), version("1"))
    assert page.startswith(
        "Version 2 of `ddpm` **did not become the champion**, decided by gate on 2026-11-22 at 03:04."
    )
    assert "- worse\n- too far; really" in page
    assert "Champion: version 1." in page


def test_the_commands_that_are_printed_run_as_they_are() -> None:
    for command in (promote_command, approve_command, reconsider_command):
        args = parser().parse_args(shlex.split(command("my model", "2"))[1:])
        assert (args.number, args.name, args.reason) == ("2", "my model", "why")
    waits = decisions.decision(version(decision="pending"), None)
    assert '`ddpm approve 2 --reason "why"`; to reject it: `ddpm approve 2 --reject --reason "why"`' in waits
    for decided in ("rejected", "rolled back", "demoted"):
        assert '`ddpm reconsider 2 --reason "why"`' in decisions.decision(version(decision=decided), None)


def test_the_way_back_is_named_only_where_this_version_replaced_another() -> None:
    back = "To return to version 1: `ddpm rollback"
    promoted = version(decision="promoted", decided_against="1")
    assert back in decisions.decision(promoted, promoted)
    first = version("1", decision="promoted", decided_against="none")
    kept = version(decision="kept", decided_against="1")
    for judged, champion in ((first, first), (kept, first)):
        assert "ddpm rollback" not in decisions.decision(judged, champion)


@pytest.mark.parametrize("text", HOSTILE)
def test_reasons_names_and_authors_cannot_break_out_of_the_page(text: str) -> None:
    hostile = version(name=text, decision="kept", reasons=text, decided_by=text, decided_at=text)
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(decisions.decision(hostile, hostile))
    for tag in ("<script", "<img", "<a ", "<h1", "<b>", "<!--", "<hr", "<blockquote", "<ol"):
        assert tag not in page
