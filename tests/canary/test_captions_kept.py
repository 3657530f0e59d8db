"""What is kept with a version of a model of captions: its requests have the captions of measured images.

The extractor is a mock, whose features are the pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captioned import CAPTIONS, text_of_spec

from ddpm.canary import examine, kept
from ddpm.generation.recipe import load_model
from ddpm.serving import sample_request

LONG = "a caption of which the model would never read the end " * 3


@pytest.fixture
def made(tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, kept.Kept]:
    tiny_model(tmp_path / "model.safetensors", **text_of_spec(length=14))
    model = load_model(tmp_path / "model.safetensors")

    def of_pixels(extractor: None, images: np.ndarray, **options: Any) -> Any:
        return type("Described", (), {"features": torch.from_numpy(images.reshape(len(images), -1)).float()})

    monkeypatch.setattr(kept, "load_extractor", lambda path, device: None)
    monkeypatch.setattr(kept, "describe", of_pixels)
    extractor = tmp_path / "extractor"
    extractor.write_bytes(b"an extractor")
    measured = np.zeros((6, 1, 8, 8), np.uint8)
    texts = [*CAPTIONS, None, LONG]
    return model, kept.make(model, measured=measured, labels=None, extractor=extractor, texts=texts)


def test_captions_that_can_be_asked_for_are_kept_and_read_again(made: tuple[Any, kept.Kept], tmp_path: Path) -> None:
    model, whole = made
    assert whole.texts[:4] == CAPTIONS
    assert LONG.startswith(whole.texts[4])
    assert len(whole.texts) == 5
    whole.write(tmp_path / "kept")
    again = kept.read(tmp_path / "kept")
    assert (again.texts, again.condition_of(5)) == (whole.texts, {"text": CAPTIONS[0]})
    inputs = list(examine._inputs(6, again))
    assert [fields["text"] for fields in inputs] == [whole.texts[k % 5] for k in range(6)]
    assert len({fields["seed"] for fields in inputs}) == 6
    for fields in inputs:
        assert sample_request.complete(fields, model).text == fields["text"]


def require_drawn_again(model: Any, whole: kept.Kept) -> None:
    for k, picture in enumerate(whole.pictures):
        request = sample_request.complete({"number": 1, "seed": k} | whole.condition_of(k), model)
        assert torch.equal(sample_request.draw(model, request)[0], picture)


def test_a_kept_picture_is_what_its_request_draws(made: tuple[Any, kept.Kept]) -> None:
    model, whole = made
    require_drawn_again(model, whole)
    assert not torch.equal(whole.pictures[0], whole.pictures[1])


@pytest.mark.parametrize("texts", [[LONG] * 6, [None] * 6, None])
def test_without_a_short_caption_a_kept_picture_is_still_what_its_request_draws(
    made: tuple[Any, kept.Kept], tmp_path: Path, texts: Any
) -> None:
    model, extractor = made[0], tmp_path / "extractor"
    measured = np.zeros((6, 1, 8, 8), np.uint8)
    require_drawn_again(model, kept.make(model, measured=measured, labels=None, extractor=extractor, texts=texts))
