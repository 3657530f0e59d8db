"""What git hosts and object stores send is recognised, whoever sends it is known, and the same event has one key."""

import hashlib
import hmac
import json
from typing import Any

import pytest
from conftest import ROOT  # noqa: F401 (puts flows/ on the path)
from events import NotAnEventError, from_git, from_store, is_signed, is_token

PUSH = {
    "ref": "refs/heads/main",
    "before": "1" * 40,
    "after": "2" * 40,
    "repository": {"full_name": "alice/pictures", "default_branch": "main"},
    "pusher": {"name": "alice", "email": "alice@example.org"},
}


def stored(
    key: str = "raw/cat+1.png", *, what: str = "s3:ObjectCreated:Put", sequencer: str = "1", **more: Any
) -> dict:
    thing = {"key": key, "size": 10, "eTag": "e", "sequencer": sequencer}
    return {"eventName": what, "s3": {"bucket": {"name": "pictures"}, "object": thing}} | more


def body(**values: Any) -> bytes:
    return json.dumps(values).encode()


def test_the_signature_is_the_one_of_the_example_in_github_s_documentation() -> None:
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert is_signed(b"Hello, World!", signature, "It's a Secret to Everybody")
    assert not is_signed(b"Hello, World?", signature, "It's a Secret to Everybody")
    assert not is_signed(b"Hello, World!", signature.removeprefix("sha256="), "It's a Secret to Everybody")
    assert not is_signed(b"", "", "It's a Secret to Everybody")
    assert not is_signed(b"", "sha256=\udcff", "x" * 16)


def test_a_token_is_a_bearer_s() -> None:
    assert is_token("Bearer 0123456789abcdef", "0123456789abcdef")
    for wrong in ("", "Bearer", "Bearer ", "0123456789abcdef", "Bearer 0123456789abcdeF", "Bearer é"):
        assert not is_token(wrong, "0123456789abcdef")


def test_a_push_to_the_default_branch_says_who_pushed_where() -> None:
    event = from_git("push", body(**PUSH))
    assert event is not None
    assert event.because == "push by alice to main of alice/pictures"
    assert event.key == from_git("push", body(**PUSH)).key != from_git("push", body(**PUSH | {"after": "3" * 40})).key


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("ping", {}),
        ("issues", {}),
        ("push", {"ref": "refs/heads/another"}),
        ("push", {"ref": "refs/tags/v1"}),
        ("push", {"after": "0" * 40}),
    ],
)
def test_other_events_of_git_start_nothing(kind: str, changed: dict) -> None:
    assert from_git(kind, body(**PUSH | changed)) is None


def test_a_notification_of_a_store_says_what_was_stored_and_the_same_one_sent_again_has_the_same_key() -> None:
    first = from_store(body(Records=[stored(), stored("raw/dog.png")]))
    assert first is not None
    assert first.because == "pictures/raw/cat 1.png and 1 more created"
    again = body(Records=[stored("raw/dog.png", eventTime="later"), stored(responseElements={"id": "another"})])
    assert from_store(again).key == first.key
    assert from_store(body(Records=[stored(sequencer="2")])).key != from_store(body(Records=[stored()])).key
    removed = from_store(body(EventName="s3:ObjectRemoved:Delete", Records=[stored(what="ObjectRemoved:Delete")]))
    assert removed.because == "pictures/raw/cat 1.png removed"


def test_a_test_event_and_a_read_object_start_nothing() -> None:
    assert from_store(body(Service="Amazon S3", Event="s3:TestEvent", Bucket="pictures")) is None
    assert from_store(body(Records=[stored(what="s3:ObjectAccessed:Get")])) is None


@pytest.mark.parametrize(
    "sent", [b"", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b"{}", body(Records=1), body(Records=[{}])]
)
def test_a_body_of_another_kind_is_refused_and_crashes_nothing(sent: bytes) -> None:
    with pytest.raises(NotAnEventError):
        from_store(sent)
    with pytest.raises(NotAnEventError):
        from_git("push", sent)


def test_names_from_outside_are_one_short_line() -> None:
    named = body(**PUSH | {"pusher": {"name": "a\nb\x1b[31m" + "c" * 1000}})
    event = from_git("push", named)
    assert event.because.startswith("push by a\\nb\\x1b[31mccc")
    assert len(event.because) < 140


def test_the_key_is_of_what_is_signed() -> None:
    sent = body(**PUSH)
    assert is_signed(sent, "sha256=" + hmac.new(b"x" * 16, sent, hashlib.sha256).hexdigest(), "x" * 16)
    assert from_git("push", sent).key == f"git-{hashlib.sha256(sent).hexdigest()}"
