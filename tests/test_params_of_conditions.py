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
        ("caption", {}, "condition is 'caption', expected none, label, text or image"),
        (
            "label",
            {"sample": {"picture_noise": 5.0}},
            "sample.picture_noise is 5.0, which nothing reads where condition is label; set sample.picture_noise",
        ),
        ("image", {"image": {"degradations": []}}, "image: degradations is empty, expected at least one"),
        (
            "image",
            {"image": {"degradations": ["inpaint", "inpaint"]}},
            "image: degradations has inpaint twice; remove one",
        ),
        ("image", {"image": {"degradations": ["deblur"]}}, "image.degradations.0 is 'deblur', expected super-resol"),
        ("image", {"image": {"degradations": ["denoise"]}}, "which needs noise to remove; set noise to [0, 50] or"),
        ("image", {"image": {"factor": 1}}, "image: factor is 1, expected 2 to 64"),
        ("image", {"image": {"hole": [0.0, 0.5]}}, "image: hole is [0.0, 0.5], expected [least, greatest], shares"),
        ("image", {"image": {"noise": [9.0, 5.0]}}, "image: noise is [9.0, 5.0], expected [least, greatest]"),
        ("image", {"image": {"factor": 3}, "data": {"size": 8}}, "image.factor is 3, expected a divisor of the size"),
        (
            "image",
            {"image": {"degradations": ["colourise"]}, "data": {"channels": 1}},
            "image.degradations has colourise, but the images are grey; remove it, or use colour images",
        ),
        (
            "image",
            {"sample": {"picture_noise": 5.0}},
            "sample.picture_noise is 5, expected 0 to 0 (image.noise); change it",
        ),
        (
            "image",
            {"image": {"noise": [2.0, 9.0]}},
            "sample.picture_noise is 0, expected 2 to 9 (image.noise); change it",
        ),
        (
            "image",
            {"image": {"degradations": ["denoise"], "noise": [2.0, 9.0]}, "sample": {"picture_noise": 4.0}},
            "sample.picture_noise is 4, expected 0, because denoise adds no other noise; change it",
        ),
        (
            "label",
            {"sample": {"base": "models:/small/1"}},
            "sample.base is models:/small/1, which nothing reads where condition is label",
        ),
        (
            "image",
            {"image": {"degradations": ["inpaint"]}, "sample": {"base": "models:/small/1"}},
            "sample.base is set, but image.degradations has no super-resolution, by which its images are enlarged; add",
        ),
        (
            "image",
            {"evaluate": {"augmentation": True}},
            "which needs generated images with classes, but condition is im",
        ),
    ],
)
def test_what_does_not_fit_is_refused(condition: str, sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        params(condition, **sections)
    assert sentence in str(error.value)


@pytest.mark.parametrize("method", ["vae", "gan"])
def test_only_diffusion_reads_captions_and_pictures(method: str) -> None:
    with pytest.raises(UserError, match="condition is image, which only method diffusion supports, but method is"):
        params("image", method=method)
    with pytest.raises(UserError, match="condition is text, which only method diffusion supports, but method is"):
        params("text", method=method, data=CAPTIONED)


def test_guidance_needs_captions_or_classes_and_captions_suffice() -> None:
    assert params("text", data=CAPTIONED | {"labels": False}, sample={"guidance": 2.0}).condition == "text"
    assert params("image", data={"labels": False}, sample={"guidance": 2.0}).condition == "image"
    with pytest.raises(UserError, match=r"needs classes or captions, but data\.labels is false"):
        params("label", data={"labels": False}, sample={"guidance": 2.0})
    with pytest.raises(UserError, match=r"train\.label_dropout is 0, so the model has no unconditional prediction"):
        params("text", data=CAPTIONED, sample={"guidance": 2.0}, train={"label_dropout": 0.0})


LATENTS = {"data": {"size": 8}, "objective": {"bounded": False}}


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"objective": {"bounded": True}}, "codec is autoencoder, but objective.bounded is true, and latents have no "),
        ({"objective": {"bounded": False, "learned_variance": True}}, "but objective.learned_variance is true, and"),
        ({"evaluate": {"bits_per_dim": 100}}, "but evaluate.bits_per_dim is 100, and the likelihood of latents is not"),
        ({"train": {"flip": True}}, "but train.flip is true, and a mirrored latent is not that of the mirrored image"),
        ({"sample": {"threshold": 0.9}}, "but sample.threshold is 0.9, and latents have no bounds; set sample.thresho"),
        ({"data": {"size": None}}, "codec is autoencoder, but data.size is null, expected a multiple of 4"),
        ({"data": {"size": 10}}, "codec is autoencoder, but data.size is 10, expected a multiple of 4"),
        (
            {"features": {"extractor": "clip", "clip_weights": "clip.pt"}},
            "autoencoder.perceptual_weight is 1, but its distance needs an extractor that is trained here",
        ),
        ({"autoencoder": {"width": 12}}, "autoencoder: width is 12, expected a multiple of 8 and of groups (8)"),
    ],
)
def test_what_latents_cannot_do_is_refused(sections: dict[str, Any], sentence: str) -> None:
    changed = {name: GOOD[name] | values for name, values in (LATENTS | sections).items()}
    with pytest.raises(UserError) as refused:
        validate(GOOD | {"codec": "autoencoder"} | changed, source="params.yaml")
    assert sentence in str(refused.value)


def test_latents_go_with_labels() -> None:
    changed = {name: GOOD[name] | values for name, values in LATENTS.items()}
    assert validate(GOOD | {"codec": "autoencoder"} | changed, source="params.yaml").codec == "autoencoder"
