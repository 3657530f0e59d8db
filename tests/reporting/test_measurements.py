"""Tables of metrics show which numbers compare and which do not."""

import re
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
    "extractor": {"name": "classifier-64", "sha256": "fedcba9876543210"},
    "drawing": {"steps": 10},
}


def record(fid: float | None, **protocol: Any) -> dict[str, Any]:
    metrics = {"fid": fid, "kid": -0.0123} | dict.fromkeys(MEMORIZED, 0.01)
    interval = {"memorized_share": {"low": 0.0054, "high": 0.0174}}
    if fid is not None:
        interval["fid"] = {"low": fid - 0.25, "high": fid + 0.25}
    return metrics | {"interval": interval, "floor": {"fid": 0.5, "kid": None}, "protocol": PROTOCOL | protocol}


def test_a_metric_stands_beside_the_champion_and_the_floor_with_its_interval() -> None:
    table = measurements.metrics_table(record(2.0), record(3.0), champion_title="champion, version 1")
    assert table.head == ("metric", "this model", "champion, version 1", "floor")
    assert table.rows[0] == ("FID, lower is better", "2 (1.75 to 2.25)", "3 (2.75 to 3.25)", "0.5")
    assert table.rows[1] == ("KID, lower is better", "-0.0123", "-0.0123", "")
    assert table.rows[2] == ("Copies by pixels, lower is better", "1.00% (0.5% to 1.7%)", "1.00% (0.5% to 1.7%)", "")


def test_the_terminal_has_model_and_floor_with_their_intervals_in_aligned_columns() -> None:
    with_class = record(2.0) | {"classes_covered": 1.0}
    with_class["interval"] |= {"classes_covered": {"low": 1.0, "high": 1.0}}
    head, fid, kid, classes, *_, empty, legend = measurements.metrics_lines(with_class)
    assert head.split() == ["model", "floor"]
    assert fid.split("  ")[0] == "FID"
    assert "2 (1.75 to 2.25)" in fid
    assert "1 (1 to 1)" in classes
    for line in (fid, kid, classes):
        assert line[head.index("model") - 1] == line[head.index("floor") - 1] == " "
        assert " " not in (line[head.index("model")], line[head.index("floor")])
    assert [fid[head.index("floor") :].split()[0], kid[head.index("floor") :].split()[0]] == ["0.5", "-"]
    assert empty == ""
    assert legend.startswith("floor: real images")


def test_classes_that_are_left_out_are_said_below_the_metrics() -> None:
    assert measurements.metrics_lines(record(2.0))[-1].startswith("floor: real images")
    for number, which in ((1, "1 class"), (2, "2 classes")):
        last = measurements.metrics_lines(record(2.0) | {"classes_left_out": number})[-1]
        assert last == f"Classes covered leaves out {which}, which the extractor names on no held-out image."


@pytest.mark.parametrize(
    ("second", "disagree"), [(0.1, None), (0.3, "FID is better .* by classifier-64, but worse by")]
)
def test_extractors_disagree_where_one_finds_better_what_the_other_finds_worse(
    second: float, disagree: str | None
) -> None:
    """The first extractor has 2.0 against the champion's 3.0, the second one `second` against 0.2."""
    found = measurements.disagreement(record(2.0) | {"fid_second": second}, record(3.0) | {"fid_second": 0.2})
    assert found is None if disagree is None else re.search(disagree, found or "")
    assert measurements.disagreement(record(2.0), record(3.0)) is None


def test_a_champion_of_another_protocol_has_no_column() -> None:
    with pytest.raises(ValueError, match="n: 1200 and 500"):
        measurements.metrics_table(record(2.0), record(3.0, n=500))
    other_drawing = record(3.0, drawing={"steps": 5})
    assert measurements.metrics_table(record(2.0), other_drawing).rows[0][2] == "3 (2.75 to 3.25)"


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


def test_a_record_of_an_older_form_in_the_registry_does_not_stop_its_pages() -> None:
    sentence = measurements.protocol_sentence({"n": 100, "extractor": "classifier-64", "extractor_hash": "abc"})
    assert sentence == "100 generated images, extractor classifier-64 (a record of an older form)"
