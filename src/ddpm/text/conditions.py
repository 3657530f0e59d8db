"""The condition of a model's images, as the network takes it: a row per image, of labels or of captions."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ddpm.degrading.pictures import Pictures
from ddpm.errors import UserError
from ddpm.images import Images
from ddpm.model_spec import Spec
from ddpm.text import tokenizer

Captions = Sequence[str | None]
"""The caption of each image; None for an image without one."""


def of_images(spec: Spec, labels: np.ndarray | None, captions: Callable[[], Captions]) -> np.ndarray | None:
    """Return the condition of images with these labels, int64 [N], or captions: [N, ...]; None for a model without, and
    for one that is given pictures.

    Raises UserError as `captions` does, and if the library tokenizers is needed and not installed.
    """
    if spec.text is not None:
        return of_texts(spec, captions()).numpy()
    return labels if spec.classes else None


def of_held_out(
    spec: Spec, labels: np.ndarray | None, captions: Callable[[], Captions], images: Images
) -> np.ndarray | Pictures | None:
    """Return the same as `of_images`, but for a model that is given pictures these images, each degraded."""
    if spec.image is None:
        return of_images(spec, labels, captions)
    return Pictures(spec.image, images, n=len(images), seed=0, noise=spec.image.noise[0], in_order=True)


def of_texts(spec: Spec, texts: Captions) -> Tensor:
    """Return the condition of a model that knows captions: int32 [N, L]. None is an image without a caption.

    Raises UserError if the library tokenizers is not installed.
    """
    assert spec.text is not None
    assert spec.tokenizer is not None
    return torch.from_numpy(tokenizer.encoded(spec.tokenizer, list(texts), length=spec.text.length))


def in_turn(spec: Spec, places: Sequence[int]) -> Tensor | None:
    """Return the classes or the examples of captions in turn, at these places of the turn: [N, ...]; None for a model
    without condition."""
    if spec.classes:
        return torch.tensor([k % len(spec.classes) for k in places])
    return None if spec.text is None else of_texts(spec, [example(spec, k) for k in places])


def example(spec: Spec, place: int) -> str | None:
    """Return the caption at this place of the turn of the examples; None if there are no examples."""
    examples = spec.text.examples if spec.text is not None else ()
    return examples[place % len(examples)] if examples else None


def read_part(spec: Spec, text: str) -> str:
    """Return the text, without what a network does not read at its end: a text that `require_short_enough` accepts.

    Empty for a model that knows no captions.
    """
    if spec.text is None:
        return ""
    while (n := _number_of_tokens(spec, text)) > spec.text.length:
        text = text[: len(text) * spec.text.length // n].rstrip()
    return text


def require_short_enough(spec: Spec, text: str) -> None:
    """Raise UserError if the network would not read the end of this text."""
    assert spec.text is not None
    n = _number_of_tokens(spec, text)
    if n > spec.text.length:
        raise UserError(
            f"text has {n} tokens, but this model reads {spec.text.length}; shorten it to about "
            f"{spec.text.length / n:.0%} of its length"
        )


def _number_of_tokens(spec: Spec, text: str) -> int:
    assert spec.tokenizer is not None
    return tokenizer.number_of_tokens(spec.tokenizer, text)
