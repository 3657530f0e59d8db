"""A record of figures says how they were measured, survives JSON, and holds no NaN."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ddpm.errors import UserError
from ddpm.measuring.record import Figures, Protocol, Record, Sampling, Spread, read_sampling, recipe_of

SAMPLING = {"seed": 3, "sampler": "ddim", "steps": 25, "eta": 0.0, "guidance": 1.5}
PROTOCOL = Protocol(
    **SAMPLING,
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
FIGURES = Figures(
    fid=2.5,
    isc=8.0,
    isc_std=0.1,
    kid=-0.001,
    kid_std=0.02,
    precision=0.8,
    recall=0.7,
    memorized_share=0.01,
    memorized_share_features=0.02,
    memorized_share_shifted=0.03,
    memorized_share_half=0.04,
)
RECORD = Record(
    figures=FIGURES,
    spread=Spread(fid=0.2, blocks=3, n=333, reason=None),
    floor=replace(FIGURES, fid=0.5),
    floor_n=1000,
    protocol=PROTOCOL,
)


def test_a_record_comes_back_from_json_as_it_was() -> None:
    assert Record.from_json(json.loads(json.dumps(RECORD.to_json(), allow_nan=False))) == RECORD


def test_figures_stand_at_the_top_beside_floor_and_protocol() -> None:
    values = RECORD.to_json()
    assert (values["fid"], values["fid_spread"], values["memorized_share"]) == (2.5, 0.2, 0.01)
    assert (values["floor"]["fid"], values["floor"]["n"]) == (0.5, 1000)
    assert {"n", "seed", "sampler", "reference_hash", "extractor_hash"} <= values["protocol"].keys()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_becomes_null(value: float) -> None:
    record = replace(RECORD, figures=replace(FIGURES, fid=value))
    assert json.loads(json.dumps(record.to_json(), allow_nan=False))["fid"] is None


def test_a_tracker_gets_the_figures_that_there_are() -> None:
    numbers = replace(RECORD, figures=replace(FIGURES, isc=None)).numbers()
    assert numbers["fid"] == 2.5
    assert numbers["floor/fid"] == 0.5
    assert "isc" not in numbers


def test_a_protocol_says_how_its_images_were_drawn() -> None:
    told = json.loads(json.dumps(asdict(replace(PROTOCOL, guidance_interval=(0.5, 5.0), threshold=0.9))))
    recipe = recipe_of(told)
    assert recipe is not None
    assert recipe == Sampling(**SAMPLING, guidance_interval=(0.5, 5.0), threshold=0.9).recipe()
    assert recipe_of({"n": 10}) is None


def test_a_record_from_before_copies_were_looked_for_when_shifted_and_in_halves_is_read() -> None:
    values = RECORD.to_json()
    for figures in (values, values["floor"]):
        for name in ("memorized_share_shifted", "memorized_share_half"):
            del figures[name]
    older = replace(FIGURES, memorized_share_shifted=None, memorized_share_half=None)
    assert Record.from_json(values) == replace(RECORD, figures=older, floor=replace(older, fid=0.5))


def test_a_record_that_lacks_a_figure_is_refused_by_its_name() -> None:
    values = RECORD.to_json()
    del values["floor"]["kid"]
    with pytest.raises(UserError, match="'kid'"):
        Record.from_json(values)


def test_a_protocol_that_lacks_an_entry_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match="'sampler'"):
        Protocol.from_json({})


def test_sampling_is_read_from_beside_the_images(tmp_path: Path) -> None:
    (tmp_path / "sample.json").write_text(json.dumps(SAMPLING | {"n": 200}))
    assert read_sampling(tmp_path, n=200) == Sampling(**SAMPLING)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "was not found"),
        ("{", "does not say how"),
        ("{}", "'sampler'"),
        (json.dumps(SAMPLING | {"n": 7}), "speaks of 7 images, but .* holds 200"),
    ],
)
def test_sampling_that_does_not_fit_the_images_is_refused(content: str | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "sample.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read_sampling(tmp_path, n=200)
