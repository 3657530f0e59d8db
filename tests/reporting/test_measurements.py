"""Tables of metrics show which numbers compare and which do not."""

from typing import Any

import pytest

from ddpm.promotion.gate import MEMORIZED
from ddpm.reporting import measurements
from ddpm.reporting.measurements import Protocols

PROTOCOL = {
    "n": 1200,
    "seed": 0,
    "reference_n": 300,
    "reference_hash": "0123456789abcdef",
    "extractor": "classifier-64",
    "extractor_hash": "fedcba9876543210",
    "drawing": {"steps": 10},
}


def record(fid: float | None, **protocol: Any) -> dict[str, Any]:
    metrics = {"fid": fid, "fid_spread": 0.25, "kid": -0.0123} | dict.fromkeys(MEMORIZED, 0.01)
    return metrics | {"floor": {"fid": 0.5, "kid": None}, "protocol": PROTOCOL | protocol}


def test_a_metric_stands_beside_the_champion_and_the_floor_with_its_spread() -> None:
    table = measurements.metrics_table(record(2.0), record(3.0), champion_title="champion, version 1")
    assert table.head == ("metric", "this model", "champion, version 1", "floor")
    assert table.rows[0] == ("FID, lower is better", "2 ± 0.25", "3 ± 0.25", "0.5")
    assert table.rows[1] == ("KID, lower is better", "-0.0123", "-0.0123", "")
    assert table.rows[2] == ("Copies by pixels, lower is better", "1.00%", "1.00%", "")


def test_a_champion_of_another_protocol_has_no_column() -> None:
    with pytest.raises(ValueError, match="n: 1200 and 500"):
        measurements.metrics_table(record(2.0), record(3.0, n=500))
    other_drawing = record(3.0, drawing={"steps": 5})
    assert measurements.metrics_table(record(2.0), other_drawing).rows[0][2] == "3 ± 0.25"


def test_a_metric_that_was_not_measured_has_no_row() -> None:
    assert measurements.metrics_table(record(None)).rows[0][0] == "KID, lower is better"


def test_protocols_have_letters_and_a_legend_that_names_the_differences() -> None:
    protocols = Protocols()
    letters = [protocols.letter(each) for each in (record(1.0), record(2.0, n=500), record(3.0, drawing={"steps": 5}))]
    assert letters == ["A", "B", "A"]
    assert protocols.legend() == [
        "protocol A: 1,200 generated images (seed 0), 300 held-out real images (01234567), "
        "extractor classifier-64 (fedcba98)",
        "protocol B: 500 generated images (seed 0), 300 held-out real images (01234567), "
        "extractor classifier-64 (fedcba98); it differs from A in n",
    ]
