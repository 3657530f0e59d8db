"""A record of metrics says how they were measured, survives JSON, and has no NaN."""

import json
import math
from dataclasses import replace

import pytest

from ddpm.errors import UserError
from ddpm.measuring.measured import Measured
from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.measuring.record import Metrics, Protocol, Record

PROTOCOL = Protocol(
    drawing={"by": "hand", "pens": [1, 2]},  # whoever drew them knows what it means
    seed=3,
    n=1000,
    reference_hash="r" * 64,
    reference_n=360,
    extractor={"name": "classifier-64", "sha256": "e" * 64},
    second={"name": "rotation-64", "sha256": "f" * 64},
    torch_fidelity="0.4.0",
    kid_subset_size=100,
    kid_subsets=50,
    neighbours=3,
    memorized_quantile=0.01,
)
METRICS = {metric.name: Measured(0.02, 0.01, 0.04) for metric in JUDGED}
METRICS |= {"fid": Measured(2.5, 2.25, 2.75), "inception_score": Measured(8.0, 7.5, 8.5)}
RECORD = Record(
    metrics=Metrics.of(METRICS),
    floor=Metrics.of(METRICS | {"fid": Measured(0.5, 0.4, 0.6)}),
    floor_n=1000,
    protocol=PROTOCOL,
)


def test_a_record_comes_back_from_json_as_it_was() -> None:
    for record in (RECORD, replace(RECORD, classes_left_out=2)):
        assert Record.from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == record


def test_figures_stand_at_the_top_beside_floor_and_protocol() -> None:
    values = RECORD.to_json()
    assert next(iter(values.items())) == ("version", 2)
    assert (values["fid"], values["interval"]["fid"]) == (2.5, {"low": 2.25, "high": 2.75})
    assert (values["floor"]["fid"], values["floor"]["n"]) == (0.5, 1000)
    assert values["floor"]["interval"]["fid"] == {"low": 0.4, "high": 0.6}
    assert {"n", "seed", "drawing", "reference_hash", "extractor"} <= values["protocol"].keys()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(value: float) -> None:
    values = replace(RECORD, metrics=Metrics.of(METRICS | {"fid": Measured(value, 0.0, 1.0)})).to_json()
    assert json.loads(json.dumps(values, allow_nan=False))["fid"] is None
    assert "fid" not in values["interval"]
    ends = replace(RECORD, metrics=Metrics.of(METRICS | {"fid": Measured(1.0, 0.5, value)})).to_json()
    assert (ends["fid"], "fid" in ends["interval"]) == (1.0, False)


def test_a_tracker_gets_the_figures_that_there_are() -> None:
    numbers = replace(RECORD, metrics=Metrics.of(METRICS | {"inception_score": None})).numbers()
    assert (numbers["fid"], numbers["fid_low"], numbers["fid_high"]) == (2.5, 2.25, 2.75)
    assert numbers["fid_floor"] == 0.5
    assert not [name for name in numbers if name.startswith("inception_score")]


def test_a_name_that_is_not_in_the_catalogue_is_no_metric_of_a_record() -> None:
    with pytest.raises(ValueError, match="fidd not in the catalogue"):
        Metrics.of({"fidd": Measured(1.0, 0.5, 1.5)})


@pytest.mark.parametrize(("changes", "form"), [({"version": 3}, 3), ({"version": None}, None)])
def test_a_record_of_another_form_is_refused_in_one_sentence(changes: dict, form: int | None) -> None:
    with pytest.raises(UserError, match=f"has the form {form}, expected 2") as refused:
        Record.from_json(RECORD.to_json() | changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("part", "name"), [("floor", "kid"), ("floor", "memorized_share_half"), ("protocol", "drawing")]
)
def test_a_record_that_lacks_an_entry_is_refused_by_its_name(part: str, name: str) -> None:
    values = RECORD.to_json()
    del values[part][name]
    with pytest.raises(UserError, match=f"'{name}'"):
        Record.from_json(values)
