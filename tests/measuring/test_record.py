"""A record of metrics says how they were measured, survives JSON, and has no NaN."""

import json
import math
from dataclasses import replace

import pytest

from ddpm.errors import UserError
from ddpm.measuring.record import Metrics, Protocol, Record, Spread

PROTOCOL = Protocol(
    drawing={"by": "hand", "pens": [1, 2]},  # whoever drew them knows what it means
    seed=3,
    n=1000,
    reference_hash="r" * 64,
    reference_n=360,
    extractor="classifier-64",
    extractor_hash="e" * 64,
    torch_fidelity="0.4.0",
    kid_subset_size=100,
    kid_subsets=50,
    neighbours=3,
    memorized_quantile=0.01,
)
METRICS = Metrics(
    fid=2.5,
    inception_score=8.0,
    inception_score_spread=0.1,
    kid=-0.001,
    kid_spread=0.02,
    precision=0.8,
    recall=0.7,
    memorized_share=0.01,
    memorized_share_features=0.02,
    memorized_share_shifted=0.03,
    memorized_share_mirrored=0.035,
    memorized_share_half=0.04,
)
RECORD = Record(
    metrics=METRICS,
    spread=Spread(fid=0.2, blocks=3, n=333, reason=None),
    floor=replace(METRICS, fid=0.5),
    floor_n=1000,
    protocol=PROTOCOL,
)


def test_a_record_comes_back_from_json_as_it_was() -> None:
    assert Record.from_json(json.loads(json.dumps(RECORD.to_json(), allow_nan=False))) == RECORD


def test_figures_stand_at_the_top_beside_floor_and_protocol() -> None:
    values = RECORD.to_json()
    assert (values["fid"], values["fid_spread"], values["memorized_share"]) == (2.5, 0.2, 0.01)
    assert (values["floor"]["fid"], values["floor"]["n"]) == (0.5, 1000)
    assert {"n", "seed", "drawing", "reference_hash", "extractor_hash"} <= values["protocol"].keys()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(value: float) -> None:
    record = replace(RECORD, metrics=replace(METRICS, fid=value))
    assert json.loads(json.dumps(record.to_json(), allow_nan=False))["fid"] is None


def test_a_tracker_gets_the_figures_that_there_are() -> None:
    numbers = replace(RECORD, metrics=replace(METRICS, inception_score=None)).numbers()
    assert numbers["fid"] == 2.5
    assert numbers["fid_floor"] == 0.5
    assert "inception_score" not in numbers


@pytest.mark.parametrize(
    ("part", "name"), [("floor", "kid"), ("floor", "memorized_share_half"), ("protocol", "drawing")]
)
def test_a_record_that_lacks_an_entry_is_refused_by_its_name(part: str, name: str) -> None:
    values = RECORD.to_json()
    del values[part][name]
    with pytest.raises(UserError, match=f"'{name}'"):
        Record.from_json(values)
