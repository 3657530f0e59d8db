"""Read the events of git hosts and object stores: is the sender known, what happened, and is it the same event again?

A key is made of what the sender signs, never of a header beside it, because whoever repeats a captured request can give
it other headers.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from ddpm.errors import on_one_line

_NAMED_CHARACTERS = 60
_DELETED = "0" * 40
_CHANGES = ("ObjectCreated:", "ObjectRemoved:")


class NotAnEventError(Exception):
    """The body of a request is not what its sender is known to send."""


@dataclass(frozen=True)
class Event:
    """Something after which the pipeline should look for changes."""

    key: str
    """The same for the same event, however often it is sent."""
    because: str
    """Who did what, on one line."""


def is_signed(body: bytes, signature: str, secret: str) -> bool:
    """Return whether X-Hub-Signature-256 is that of the body, in a time that does not depend on the signature."""
    own = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(own.encode(), signature.encode("utf-8", "replace"))


def is_token(authorization: str, token: str) -> bool:
    """Return whether the header Authorization has this bearer token, in a time that does not depend on the header."""
    return hmac.compare_digest(f"Bearer {token}".encode(), authorization.encode("utf-8", "replace"))


def from_git(kind: str, body: bytes) -> Event | None:
    """Return the event of a push to the default branch; None for every other event. `kind` is X-GitHub-Event.

    Raises NotAnEventError if the body is no push as GitHub sends it.
    """
    if kind != "push":
        return None
    push = _object(body)
    try:
        ref, after, repository = push["ref"], push["after"], push["repository"]
        name, branch = repository["full_name"], repository["default_branch"]
        who = push["pusher"].get("name") or push["pusher"].get("login")
    except (KeyError, TypeError, AttributeError):
        raise NotAnEventError("the body is no push, expected ref, after, repository and pusher") from None
    if ref != f"refs/heads/{branch}" or after == _DELETED:
        return None
    return Event(_key("git", body), f"push by {_named(who)} to {_named(branch)} of {_named(name)}")


def from_store(body: bytes) -> Event | None:
    """Return the event of a notification of S3 or MinIO; None if no object was created or removed.

    Raises NotAnEventError if the body is no such notification.
    """
    notification = _object(body)
    if notification.get("Event") == "s3:TestEvent":
        return None
    try:
        changes = list(_changes(notification["Records"]))
    except (KeyError, TypeError, AttributeError):
        raise NotAnEventError("the body is no notification of an object store, expected Records") from None
    if not changes:
        return None
    what, bucket, key, *_ = changes[0]
    verb = "created" if "ObjectCreated:" in what else "removed"
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    # The same change may be sent again with other times and ids of requests.
    return Event(_key("store", json.dumps(sorted(changes)).encode()), f"{_named(bucket)}/{_named(key)}{more} {verb}")


def _changes(records: Any) -> Iterator[tuple[str, ...]]:
    for record in records:
        what, stored = str(record["eventName"]), record["s3"]
        if any(kind in what for kind in _CHANGES):
            thing = stored["object"]
            facts = (str(thing.get(name, "")) for name in ("versionId", "eTag", "sequencer"))
            yield what.removeprefix("s3:"), str(stored["bucket"]["name"]), unquote_plus(str(thing["key"])), *facts


def _object(body: bytes) -> dict[str, Any]:
    try:
        read = json.loads(body)
    except (ValueError, RecursionError):
        raise NotAnEventError("the body is not valid JSON") from None
    if not isinstance(read, dict):
        raise NotAnEventError("the body is no JSON object")
    return read


def _key(kind: str, signed: bytes) -> str:
    return f"{kind}-{hashlib.sha256(signed).hexdigest()}"


def _named(text: Any) -> str:
    """Return a name from outside on one line, shortened."""
    plain = on_one_line(str(text).encode("utf-8", "replace").decode())
    return plain if len(plain) <= _NAMED_CHARACTERS else f"{plain[: _NAMED_CHARACTERS - 1]}…"
