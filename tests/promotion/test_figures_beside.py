"""Files beside the record: torn or of another form, they are refused by one sentence, and no rule decides by them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddpm.errors import UserError
from ddpm.promotion.figures_beside import likelihood_of, unfit_in


@pytest.mark.parametrize(
    ("read", "content"),
    [
        *((read, content) for read in (unfit_in, likelihood_of) for content in ("", "{", "[]", "null", "[" * 100_000)),
        (unfit_in, "{}"),
        (unfit_in, '{"reasons": null}'),
        (unfit_in, '{"reasons": [3]}'),
        (unfit_in, '{"reasons": [{"figure": "fid"}]}'),
        (unfit_in, '{"reasons": [{"figure": ["fid"], "why": "it falls"}]}'),
        (unfit_in, '{"reasons": [{"figure": "fid", "why": null}]}'),
        (likelihood_of, '{"bound": "3"}'),
    ],
)
def test_another_form_is_refused(tmp_path: Path, read: Callable[[Path], Any], content: str) -> None:
    file = tmp_path / "report.json"
    file.write_text(content)
    with pytest.raises(UserError, match="write it again with `dvc repro`"):
        read(file)


EXTRACTOR = {"name": "classifier-64", "sha256": "a"}


@pytest.mark.parametrize("protocol", [{"extractor": EXTRACTOR | {"sha256": "b"}}, {}, None])
def test_reactions_of_another_extractor_are_refused(tmp_path: Path, protocol: object) -> None:
    file = tmp_path / "reactions.json"
    file.write_text(json.dumps({"protocol": protocol, "reasons": []}))
    with pytest.raises(UserError, match=r"with another extractor than the present one.*`dvc repro calibrate`"):
        unfit_in(file, extractor=EXTRACTOR)
    assert unfit_in(file) == {}


def test_reactions_of_the_same_extractor_say_what_is_unfit(tmp_path: Path) -> None:
    file = tmp_path / "reactions.json"
    file.write_text(json.dumps({"protocol": {"extractor": EXTRACTOR}, "reasons": [{"figure": "kid", "why": "falls"}]}))
    assert unfit_in(file, extractor=EXTRACTOR) == {"kid": "falls"}


def test_what_was_not_measured_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    assert (unfit_in(file), likelihood_of(file)) == ({}, {})
    file.write_text('{"images": 0, "bound": null}')
    assert likelihood_of(file) == {}
