"""Texts become the tokens that the library itself makes, the same in every process."""

import json
import subprocess
import sys
import textwrap
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from captioned import CAPTIONS
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

from ddpm.networks.settings import FIRST, PAD, START, Tokenizer
from ddpm.params import load as load_params
from ddpm.text import tokenizer
from ddpm.text.learned import learned

TEXTS = [
    *CAPTIONS,
    "A Three, left of a seven!",
    "日本の花",
    "e\u0301té",
    "  spaces\tand\nlines ",
    "😀",
    "",
    "<pad> <start>",
]


def normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def of_row(row: np.ndarray) -> list[int]:
    return [int(token) for token in row if token != PAD]


def test_tokens_are_those_of_a_tokenizer_that_the_library_trains_and_uses_by_itself() -> None:
    own = tokenizer.learn(CAPTIONS, size=280)
    theirs = Library(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator(
        map(normal, CAPTIONS), trainers.BpeTrainer(vocab_size=278, initial_alphabet=alphabet, show_progress=False)
    )
    rows = tokenizer.encoded(own, TEXTS, length=64)
    assert rows.dtype == np.int32
    for row, text in zip(rows, TEXTS, strict=True):
        start, *rest = of_row(row)
        assert start == START
        assert [own.symbols[token - FIRST] for token in rest] == theirs.encode(normal(text)).tokens
        assert tokenizer.number_of_tokens(own, text) == 1 + len(rest)
    assert 258 < own.size <= 280


def test_no_text_loses_anything_but_case_form_and_spaces() -> None:
    own = tokenizer.learn(CAPTIONS, size=280)
    decoder = decoders.ByteLevel()
    for row, text in zip(tokenizer.encoded(own, TEXTS, length=64), TEXTS, strict=True):
        symbols = [own.symbols[token - FIRST] for token in of_row(row)[1:]]
        assert decoder.decode(symbols).removeprefix(" ") == normal(text).removeprefix(" ")


def test_a_text_is_cut_off_at_the_length_and_none_has_no_words() -> None:
    own = tokenizer.learn(CAPTIONS, size=280)
    whole = of_row(tokenizer.encoded(own, [CAPTIONS[0]], length=64)[0])
    assert tokenizer.encoded(own, [CAPTIONS[0], None, ""], length=4).tolist() == [
        whole[:4],
        [START, PAD, PAD, PAD],
        [START, PAD, PAD, PAD],
    ]


def test_another_process_learns_the_same_and_many_texts_are_encoded_as_one() -> None:
    texts = [f"{first} {k % 97} {second}" for k in range(3000) for first, second in [CAPTIONS[k % 4].split(" left ")]]
    own = tokenizer.learn(texts, size=600)
    command = """
        import json, sys
        from ddpm.text import tokenizer
        print(json.dumps(tokenizer.learn(json.load(sys.stdin), size=600).merges))
    """
    other = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(command)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
    )
    assert tuple(json.loads(other.stdout)) == own.merges
    together = tokenizer.encoded(own, texts, length=12)
    assert (
        together[::500] == np.concatenate([tokenizer.encoded(own, [text], length=12) for text in texts[::500]])
    ).all()


@pytest.mark.parametrize("merges", [["a"], ["a b c"], ["a  b"], ["ab c"], ["a \u20ac"]])
def test_merges_of_unknown_symbols_are_refused(merges: list[str]) -> None:
    with pytest.raises(ValidationError, match="the tokenizer joins"):
        TypeAdapter(Tokenizer).validate_python({"merges": merges})


def test_examples_are_read_to_their_end_if_some_can_be_and_exist_if_any_image_has_a_caption() -> None:
    settings = replace(load_params(Path(__file__).parents[2] / "params.yaml").text, length=16)
    long = "a caption of which the model would never read the end " * 3
    assert learned(settings, train=CAPTIONS, held_out=[long, CAPTIONS[0], None]).settings.examples == CAPTIONS[:1]
    assert learned(settings, train=CAPTIONS, held_out=[long]).settings.examples == (long,)
    assert learned(settings, train=[None, *CAPTIONS], held_out=[None]).settings.examples == tuple(sorted(CAPTIONS))
    assert learned(settings, train=[None], held_out=[None]).settings.examples == ()
