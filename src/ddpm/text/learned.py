"""What a model of captions gets from its data: the tokenizer and the examples."""

from dataclasses import dataclass, replace

from ddpm.errors import UserError
from ddpm.networks.settings import PAD, Text, Tokenizer
from ddpm.text import tokenizer
from ddpm.text.conditions import Captions

EXAMPLES = 10
"""Captions of held-out images that are examples, if text.examples names none; of training ones, if those have none."""


@dataclass(frozen=True)
class Words:
    settings: Text
    """With examples."""
    tokenizer: Tokenizer
    captions: int
    """Number of training images with a caption."""
    longer: int
    """Number of them whose caption is longer than `settings.length` and is cut off."""

    def sentence(self, *, images: int) -> str:
        """Return what was found in the captions of so many training images."""
        return (
            f"captions: {self.captions:,} of {images:,} training images have one; {self.tokenizer.size:,} tokens; "
            f"{self.longer:,} captions are longer than text.length ({self.settings.length}) and are cut off"
        )


def learned(settings: Text, *, train: Captions, held_out: Captions, theirs: Tokenizer | None = None) -> Words:
    """Learn the tokenizer from the training captions, or take `theirs`, and choose examples from the held-out ones.

    The same captions give the same. Examples that are read to their end are preferred. Raises UserError if `theirs` has
    more tokens than `settings` allow, if an example in `settings` would not be read to its end, or if the library
    tokenizers is not installed.
    """
    if theirs is not None and theirs.size > settings.vocabulary:
        raise UserError(
            f"train.start has a tokenizer of {theirs.size} tokens, but text.vocabulary is {settings.vocabulary}; raise "
            f"it to at least {theirs.size}"
        )
    captions = [caption for caption in train if caption is not None]
    own = theirs or tokenizer.learn(captions, size=settings.vocabulary)
    longer = tokenizer.encoded(own, captions, length=settings.length + 1)[:, -1] != PAD
    for example in settings.examples:
        if (n := tokenizer.number_of_tokens(own, example)) > settings.length:
            raise UserError(
                f"text.examples has {example!r}, which has {n} tokens, but the model reads {settings.length} "
                "(text.length); shorten it, or raise text.length"
            )
    if not settings.examples:
        known = sorted({caption for caption in held_out if caption is not None}) or sorted(set(captions))
        ends = tokenizer.encoded(own, known, length=settings.length + 1)[:, -1]
        # A caption that is read to its end can be asked for again.
        known = [caption for caption, end in zip(known, ends, strict=True) if end == PAD] or known
        stride = max(1, len(known) // EXAMPLES)
        settings = replace(settings, examples=tuple(known[::stride][:EXAMPLES]))
    return Words(settings, own, len(captions), int(longer.sum()))
