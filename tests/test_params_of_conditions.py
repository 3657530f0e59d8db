"""What params.yaml cannot combine with a condition is refused when it is read, in one sentence with the remedy."""

from pathlib import Path
from typing import Any

import pytest

from ddpm import yaml_file
from ddpm.errors import UserError
from ddpm.params import Params, validate

GOOD = yaml_file.read(Path(__file__).parents[1] / "params.yaml")
CAPTIONED = {"source": "folder", "captions": True}


def params(condition: str, *, method: str = "diffusion", **sections: dict[str, Any]) -> Params:
    changed = {name: GOOD[name] | values for name, values in sections.items()}
    return validate(GOOD | {"condition": condition, "method": method} | changed, source="params.yaml")


@pytest.mark.parametrize(
    ("condition", "sections", "sentence"),
    [
        ("text", {}, "condition is text, but data.captions is false; set data.captions to true or condition to label"),
        (
            "label",
            {"data": {"captions": True}},
            "captions is true, but source is digits, which has none; set it to fol",
        ),
        ("none", {"sample": {"guidance": 2.0}}, "sample.guidance is 2, which needs classes or captions, but condition"),
        (
            "none",
            {"evaluate": {"augmentation": True}},
            "evaluate.augmentation is true, which needs generated images wit",
        ),
        (
            "label",
            {"text": {"examples": ["a cat"]}},
            'text.examples is ["a cat"], which nothing reads where condition ',
        ),
        ("text", {"data": CAPTIONED, "text": {"examples": [" "]}}, "text: examples has an empty caption; remove it"),
        (
            "text",
            {"data": CAPTIONED, "text": {"width": 60}},
            "text: head_channels is 32, expected a multiple of 8 that",
        ),
        ("text", {"data": CAPTIONED, "text": {"vocabulary": 100}}, "text: vocabulary is 100, expected 258 to 65536"),
        ("text", {"data": CAPTIONED, "text": {"length": 1}}, "text: length is 1, expected 2 to 512"),
        ("caption", {}, "condition is 'caption', expected none, label or text"),
    ],
)
def test_what_does_not_fit_is_refused(condition: str, sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        params(condition, **sections)
    assert sentence in str(error.value)


@pytest.mark.parametrize("method", ["vae", "gan"])
def test_only_diffusion_reads_captions(method: str) -> None:
    with pytest.raises(UserError, match="condition is text, which only method diffusion supports, but method is"):
        params("text", method=method, data=CAPTIONED)


def test_guidance_needs_captions_or_classes_and_captions_suffice() -> None:
    assert params("text", data=CAPTIONED | {"labels": False}, sample={"guidance": 2.0}).condition == "text"
    with pytest.raises(UserError, match=r"needs classes or captions, but data\.labels is false"):
        params("label", data={"labels": False}, sample={"guidance": 2.0})
    with pytest.raises(UserError, match=r"train\.label_dropout is 0, so the model has no unconditional prediction"):
        params("text", data=CAPTIONED, sample={"guidance": 2.0}, train={"label_dropout": 0.0})
