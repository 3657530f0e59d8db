"""benchmarks/retrieval.py: pictures find their captions, and pictures that have nothing to do with them do not."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captioned import CAPTIONS, pixels


@pytest.fixture
def retrieval(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("retrieval")
    sys.modules.pop("retrieval")


def test_pictures_find_their_captions_and_those_of_a_model_that_ignores_its_words_do_not(retrieval: Any) -> None:
    random = np.random.default_rng(0)
    captions = [CAPTIONS[k % 4] for k in range(256)]
    clean = np.stack([pixels(caption)[None] for caption in captions])
    images = np.clip(clean.astype(int) + random.integers(-30, 31, clean.shape), 0, 255).astype(np.uint8)
    model = retrieval.train_contrastive(images, captions, epochs=15, batch=64)
    assert retrieval.retrieval(model, images, captions, among=4).mean() > 0.9
    deaf = images[random.permutation(len(images))]
    assert 0.1 < retrieval.retrieval(model, deaf, captions, among=4).mean() < 0.4, "as often as by guessing"
    two = retrieval.retrieval(model, deaf, captions, among=2).mean()
    assert 0.4 < two < 0.75, "the others are drawn"
