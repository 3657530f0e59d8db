"""Remove credentials from text that is printed, logged or stored.

A credential is recognised by its context (the user part of a URL, `password=…`, an Authorization header), and anywhere
by its value if an environment variable contains it.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TextIO
from urllib.parse import parse_qsl, quote, unquote, urlsplit

HIDDEN = "***"

_KINDS = (
    "password|passwd|passphrase|pwd|secret|token|signature|credential|(?:api|access|account)[_-]?key|auth[_-]?string"
)
# SQLAlchemy accepts a slash within a password; a number before the first slash is a port.
# A match ends before the next URL, so that the search does not run to the end of the text from every URL.
_USER_OF_ADDRESS = re.compile(r"(?<=://)(?:[^\s/?#]*|[^\s/@:]*:(?!\d+[/?#])(?:(?!://)[^\s\"'<>])*)@")
_ASSIGNED = re.compile(
    rf"\b((?:[\w-]{{0,40}}(?:{_KINDS})(?:[_-]?id)?|sig|odbc_connect)\s*=\s*)('[^']*'|\"[^\"]*\"|[^\s&;,'\")\]}}]+)",
    re.IGNORECASE,
)
_MEMBER = re.compile(rf"""((["'])[\w-]{{0,40}}(?:{_KINDS})\2\s*:\s*)(["']).*?\3""", re.IGNORECASE)
_SCHEME = re.compile(r"(\b(?:Basic|Bearer)\s+)(?=\S*[\d=])[\w.~+/=-]{8,}")
_HEADER = re.compile(r"""(\bauthorization["']?\s*[:=]\s*["']?(?:basic\s+|bearer\s+)?)[^\s"',}]+""", re.IGNORECASE)
_SECRET_NAME = re.compile(rf"(?:{_KINDS}|(?:secret|private)_key)$", re.IGNORECASE)
_FOLDERS = ("PWD", "OLDPWD")
_WORD_CHARACTERS = 12
"""A shorter value of letters only or digits only may be an ordinary word or number of the text."""
_LEAST_CHARACTERS = 6


def redacted(text: str) -> str:
    """Return the text without the user part of URLs, and with `***` in place of other credentials."""
    for value in _known_values():
        text = text.replace(value, HIDDEN)
    text = _USER_OF_ADDRESS.sub("", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    text = _MEMBER.sub(rf"\1\3{HIDDEN}\3", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    return _SCHEME.sub(rf"\1{HIDDEN}", text)


@contextmanager
def redacted_output() -> Iterator[None]:
    """Redact everything that this process prints within the block, including tracebacks and logs of libraries."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Redacting(sys.stdout), _Redacting(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@cache
def redact_logs() -> None:
    """Redact every log record of this process from now on, whatever handler receives it."""
    make = logging.getLogRecordFactory()

    def redacting(*args: Any, **more: Any) -> logging.LogRecord:
        record = make(*args, **more)
        with suppress(Exception):  # logging itself reports a message that does not fit its arguments
            record.msg, record.args = redacted(record.getMessage()), None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
        return record

    logging.setLogRecordFactory(redacting)


class _Redacting:
    """A stream that redacts what is written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _known_values() -> list[str]:
    """Return the secrets of the environment, longest first, plain and URL-encoded."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and name not in _FOLDERS:
            found |= {value, value.partition(":")[2]}  # an auth string is user:password
        if "://" in value:
            found |= _within_address(value)
    found |= {spelled for value in found for spelled in (unquote(value), quote(value, safe=""))}
    return sorted(filter(_is_distinctive, found), key=len, reverse=True)


def _within_address(address: str) -> set[str]:
    try:
        parts = urlsplit(address)
        named = parse_qsl(parts.query)
    except ValueError:
        return set()
    return {parts.password or ""} | {value for name, value in named if _SECRET_NAME.search(name)}


def _is_distinctive(value: str) -> bool:
    """Whether the value is unlikely to be an ordinary word or number of the text."""
    plain = value.isalpha() or value.isdigit()
    return len(value) >= (_WORD_CHARACTERS if plain else _LEAST_CHARACTERS)
