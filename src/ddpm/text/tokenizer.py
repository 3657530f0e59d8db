"""Texts as numbers: byte-pair encoding (Sennrich et al. 2016) of UTF-8 bytes, by the library tokenizers.

A text is normalised (Unicode NFKC, lower case, single spaces between words) and begins with START. Every text can be
encoded, since all bytes are tokens. Only the merges are stored with a model, so that a model file cannot choose how a
text is taken apart.
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from ddpm.errors import UserError
from ddpm.networks.settings import BYTES, FIRST, PAD, START, Tokenizer

if TYPE_CHECKING:
    import tokenizers

_BATCH = 10_000
"""Texts that are encoded at a time."""


def learn(texts: Iterable[str], *, size: int) -> Tokenizer:
    """Return the tokenizer of at most `size` tokens in which these texts are short; the same texts give the same one.

    Raises UserError if the library tokenizers is not installed.
    """
    require_tokenizers()
    from tokenizers import trainers

    tool = _tool(Tokenizer(merges=()))
    trainer = trainers.BpeTrainer(vocab_size=size - FIRST, initial_alphabet=list(BYTES), show_progress=False)
    tool.train_from_iterator(texts, trainer)
    merges = json.loads(tool.to_str())["model"]["merges"]
    return Tokenizer(merges=tuple(" ".join(pair) for pair in merges))


def encoded(tokenizer: Tokenizer, texts: Sequence[str | None], *, length: int) -> np.ndarray:
    """Return the tokens of the texts, int32 [N, length]: START, then the text, cut off at `length`, then PAD.

    None is a text without words. Raises UserError if the library tokenizers is not installed.
    """
    require_tokenizers()
    tokens = np.full((len(texts), length), PAD, dtype=np.int32)
    tokens[:, 0] = START
    tool = _tool(tokenizer)
    for first in range(0, len(texts), _BATCH):
        batch = [_spaced(text or "") for text in texts[first : first + _BATCH]]
        for row, found in enumerate(tool.encode_batch_fast(batch, add_special_tokens=False), first):
            own = found.ids[: length - 1]
            tokens[row, 1 : 1 + len(own)] = np.array(own, np.int32) + FIRST
    return tokens


def number_of_tokens(tokenizer: Tokenizer, text: str) -> int:
    """Return the number of tokens of a text, START included. Raises UserError if tokenizers is not installed."""
    require_tokenizers()
    return 1 + len(_tool(tokenizer).encode(_spaced(text), add_special_tokens=False).ids)


def require_tokenizers() -> None:
    """Raise UserError if the library tokenizers is not installed."""
    if find_spec("tokenizers") is None:
        raise UserError(
            "a condition of text needs the library tokenizers, which is not installed here; run "
            '`pip install "ddpm-factory[text]"`, or set condition to label or none'
        )


def _spaced(text: str) -> str:
    return " ".join(text.split())


@lru_cache(maxsize=4)
def _tool(tokenizer: Tokenizer) -> "tokenizers.Tokenizer":
    """Return the library's tokenizer, whose ids are those of the symbols."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers

    vocabulary = {symbol: place for place, symbol in enumerate(tokenizer.symbols)}
    pairs = [(left, right) for left, right in map(str.split, tokenizer.merges)]
    tool = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tool.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tool.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    return tool
