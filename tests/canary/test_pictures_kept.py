"""What is kept with a version of a model that is given pictures: its requests give those of measured images.

The extractor is a mock, whose features are the pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from degraded import DEGRADATIONS, image_of_spec, squares

from ddpm.canary import examine, kept
from ddpm.generation.generate import evaluation_pictures
from ddpm.generation.recipe import load_model
from ddpm.serving import picture_request


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_a_kept_picture_is_what_its_request_draws(
    noise: float, tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"sampler": "ddim", "steps": 3, "picture_noise": noise}
    tiny_model(tmp_path / "model.safetensors", recipe=recipe, **image_of_spec())
    model, extractor = load_model(tmp_path / "model.safetensors"), tmp_path / "extractor"

    def of_pixels(extractor: None, images: np.ndarray, **options: Any) -> Any:
        return type("Described", (), {"features": torch.from_numpy(images.reshape(len(images), -1)).float()})

    monkeypatch.setattr(kept, "load_extractor", lambda path, device: None)
    monkeypatch.setattr(kept, "describe", of_pixels)
    extractor.write_bytes(b"an extractor")
    given = evaluation_pictures(model.spec, n=20, seed=0, images=squares(10), noise=noise)
    kept.make(model, measured=squares(6), labels=None, extractor=extractor, given=given).write(tmp_path / "kept")
    whole = kept.read(tmp_path / "kept")
    assert [whole.condition_of(k)["task"] for k in range(20, 23)] == list(DEGRADATIONS), "in turn"
    for k, picture in enumerate(whole.pictures):
        request = picture_request.complete({"number": 1, "seed": k} | whole.condition_of(k), model)
        assert torch.equal(picture_request.draw(model, request)[0], picture)
    inputs = list(examine._inputs(6, whole))
    assert [fields["image"] for fields in inputs] == [whole.condition_of(k)["image"] for k in range(6)]
    assert len({fields["seed"] for fields in inputs}) == 6
