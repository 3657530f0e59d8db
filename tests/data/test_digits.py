"""The digits are read without importing scikit-learn and equal those that it returns; pairs of them have captions."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from ddpm.data.preparing.digit_pairs import EACH, HELD_OUT, NAMES
from ddpm.data.preparing.prepare import prepare
from ddpm.data.preparing.sources import _digits_in_bytes, _read_digits
from ddpm.data.reading.dataset import read_split
from ddpm.params import load as load_params


def test_the_digits_are_those_that_scikit_learn_gives() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = _read_digits()
    assert np.array_equal(pixels, load_digits().images)
    assert labels == load_digits().target.tolist()


def test_pairs_of_digits_are_what_their_captions_say_and_ten_pairs_are_held_out(tmp_path: Path) -> None:
    data = load_params(Path(__file__).parents[2] / "params.yaml").data
    data = replace(data, source="digit_pairs", captions=True)
    facts = prepare(data, raw=tmp_path / "raw", prepared=tmp_path / "prepared", workers=1, progress=False)
    assert (facts.size, facts.channels, facts.classes) == (16, 1, ())
    assert 9 * EACH < facts.test <= 10 * EACH
    assert facts.captions == facts.kept == facts.train + facts.test
    assert facts.kept > 95 * EACH, "few pictures are equal by chance"
    digits, labels = _digits_in_bytes()
    which = {digit.tobytes(): int(label) for digit, label in zip(digits, labels, strict=True)}
    found = {}
    for name in ("train", "test"):
        split = read_split(tmp_path / "prepared", name)
        halves = [np.split(image[0, 4:12], 2, axis=1) for image in split.images]
        for (left, right), caption in zip(halves, split.captions(), strict=True):
            pair = (which[left.tobytes()], which[right.tobytes()])
            assert caption == f"a {NAMES[pair[0]]} left of a {NAMES[pair[1]]}"
            found.setdefault(name, set()).add(pair)
        found[f"digits of {name}"] = {half.tobytes() for pair in halves for half in pair}
    assert found["test"] == set(HELD_OUT)
    assert len(found["train"]) == 90
    assert not found["train"] & found["test"]
    assert not found["digits of train"] & found["digits of test"], "held-out pictures are of other digits"
