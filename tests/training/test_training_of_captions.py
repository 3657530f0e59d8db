"""A training of captions behaves as one of labels does: it continues exactly, and in parts of a batch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from captioned import CAPTIONS
from tiny_training import PARAMS, SETTINGS
from tiny_training import SPEC as OF_LABELS

from ddpm.networks.settings import Text
from ddpm.text import conditions
from ddpm.text.tokenizer import learn
from ddpm.training import session

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), dtype=np.uint8)
TEXTS = [None if k % 9 == 0 else CAPTIONS[k % 4] for k in range(37)]
TEXT = Text(vocabulary=300, length=16, width=16, layers=1, head_channels=8, examples=CAPTIONS)
UNDROPPED = replace(OF_LABELS.network, dropout=0.0)
SPEC = replace(OF_LABELS, classes=(), text=TEXT, tokenizer=learn(CAPTIONS, size=300), network=UNDROPPED)
SHORT = replace(SETTINGS, images=16 * 12, warmup_images=32, decay_images=64)


def begin(folder: Path, *, device_batch: int | None = None) -> session.Training:
    return session.begin(
        SPEC,
        IMAGES,
        conditions.of_images(SPEC, None, lambda: TEXTS),
        data_hash="made up",
        code_hash="made up",
        settings=SHORT,
        runtime=replace(PARAMS.runtime, progress=False, deterministic=True, device_batch=device_batch),
        device=torch.device("cpu"),
        precision="float32",
        state_folder=folder,
    )


def finished(training: session.Training) -> dict[str, torch.Tensor]:
    for _ in training.steps():
        pass
    return {name: tensor.clone() for name, tensor in training.average().state_dict().items()}


def test_a_training_that_was_stopped_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = finished(begin(tmp_path / "whole"))
    stopped = begin(tmp_path / "stopped")
    for step in stopped.steps():
        if step.images_seen == 16 * 5:
            break
    stopped.save(wait=True)
    stopped.close()
    again = begin(tmp_path / "stopped")
    assert again.saved_images == 16 * 5
    found = finished(again)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    start = begin(tmp_path / "new").average().state_dict()
    assert not torch.equal(start["text.token.weight"], whole["text.token.weight"]), "the encoder is trained"


def test_parts_of_a_batch_give_the_same_training_up_to_rounding(tmp_path: Path) -> None:
    whole, parts = (finished(begin(tmp_path / str(n), device_batch=n)) for n in (None, 5))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)
