"""The trend shows every version, which metrics compare, and who was champion when."""

import base64
import io
import re
from datetime import UTC, datetime
from typing import Any

from hostile import HOSTILE
from PIL import Image

from ddpm.measuring.metric_catalogue import find
from ddpm.promotion.registry import RECORDS, Version
from ddpm.promotion.succession import Move
from ddpm.reporting import trend

FID = find("fid")


def version(number: int, fid: float | None, *, seed: int = 0, decision: str = "promoted") -> Version:
    interval = {} if fid is None else {"fid": {"low": fid - 0.5, "high": fid + 0.5}}
    record = {"fid": fid, "interval": interval, "floor": {"fid": 1.0}, "protocol": {"n": 100, "seed": seed}}
    return stored(number, record, {"decision": decision}, at(number))


def stored(number: int, record: dict[str, Any], tags: dict[str, str], created: datetime) -> Version:
    return Version("ddpm", str(number), (), tags | {RECORDS: "first"}, None, created, {"first": record}.__getitem__)


def at(hour: int) -> datetime:
    return datetime(2026, 11, 21, hour, tzinfo=UTC)


def move(to: int, hour: int, minute: int = 5) -> Move:
    return Move("promote", str(to), None, "gate", at(hour).replace(minute=minute).isoformat(), "better")


VERSIONS = [version(4, 2.0), version(3, 5.0, decision="kept"), version(2, 3.0), version(1, 9.0, seed=1)]
MOVES = [move(1, 1), move(2, 2), move(4, 4)]


def page(versions: list[Version], moves: list[Move]) -> str:
    assert FID is not None
    text = trend.page(versions, moves, FID)
    assert text is not None
    return text


def test_every_version_has_a_row_with_the_champion_after_it_and_the_letter_of_its_protocol() -> None:
    rows = [line for line in page(VERSIONS, MOVES).splitlines() if line.startswith("| 2026")]
    assert rows == [
        "| 2026-11-21 04:00 | 4 | 2 (1.5 to 2.5) | 1 | became the champion | 4 | A |",
        "| 2026-11-21 03:00 | 3 | 5 (4.5 to 5.5) | 1 | did not become the champion | 2 | A |",
        "| 2026-11-21 02:00 | 2 | 3 (2.5 to 3.5) | 1 | became the champion | 2 | A |",
        "| 2026-11-21 01:00 | 1 | 9 (8.5 to 9.5) | 1 | became the champion | 1 | B |",
    ]
    assert [point.compares for point in trend.points(VERSIONS, MOVES)] == [False, True, True, True]


def test_the_picture_is_in_the_page_and_versions_without_a_value_do_not_break_it() -> None:
    for versions in (VERSIONS, [version(2, None), version(1, None)], [version(1, 1.0)]):
        data = re.search(r"\]\(data:image/png;base64,([^)]+)\)", page(versions, []))
        assert data is not None
        assert Image.open(io.BytesIO(base64.b64decode(data[1]))).width == 1100


def test_only_the_newest_versions_are_shown_and_the_number_of_the_others_is_named() -> None:
    record = version(1, 1.0).record() or {}
    many = [stored(k, record, {}, at(1)) for k in range(60)]
    text = page(many, [])
    assert f"The {trend.SHOWN} newest versions are shown, and 10 older ones are not." in text
    assert trend.page([], [], find("fid")) is None  # type: ignore[arg-type]


def test_hostile_text_stays_text() -> None:
    for text in HOSTILE:
        record = (version(1, 1.0).record() or {}) | {"protocol": {"n": 100, "extractor": {"name": text}}}
        shown = page([stored(1, record, {"decision": text}, at(1))], [])
        assert "<script" not in shown
        assert sum(line.startswith("| 2026") for line in shown.splitlines()) == 1
