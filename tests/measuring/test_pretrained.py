"""Published extractors are made from local weights alone, safely, and their description says how."""

import hashlib
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from published_weights import random_clip, random_dinov2
from safetensors.torch import save_file
from torch import Tensor

from ddpm.errors import UserError
from ddpm.measuring.features import pretrained
from ddpm.measuring.features.dinov2 import network_of
from ddpm.measuring.features.extractor import FeatureExtractor
from ddpm.measuring.features.extractor_file import load_extractor, save
from ddpm.measuring.features.pretrained import load_pretrained

SMALL_CLIP = {"width": 64, "depth": 2, "patch": 16, "size": 32, "features": 24}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection and every look-up of a name fails, and so does what torch offers for fetching."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("an extractor must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "load", refuse)


@pytest.fixture
def dinov2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of a network that is smaller than the published ones."""
    monkeypatch.setitem(pretrained.DINOV2, (64, 2), "dinov2-vit-s-14")
    path = tmp_path / "dinov2.pth"
    random_dinov2(path, width=64, depth=2)
    return path


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(pretrained.CLIP, (64, 16, 32), "clip-vit-b-32")
    path = tmp_path / "clip.safetensors"
    save_file(random_clip(**SMALL_CLIP), path)
    return path


def images(n: int = 3, channels: int = 3, size: int = 20) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=draw)


def saved_and_loaded(found: FeatureExtractor, path: Path) -> FeatureExtractor:
    save(found, path)
    assert path.stat().st_size < 1000  # it names the weights
    return load_extractor(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_dinov2_is_loaded_again_by_its_file(channels: int, dinov2: Path, tmp_path: Path) -> None:
    found = load_pretrained("dinov2", dinov2)
    features, logits = found(images(channels=channels))
    assert (features.shape, features.dtype, logits.shape) == ((3, 64), torch.float32, (3, 0))
    again = saved_and_loaded(found, tmp_path / "extractor.safetensors")
    assert torch.equal(again(images(channels=channels))[0], features)
    assert again.description == found.description
    assert found.description.to_json() == {
        "name": "dinov2-vit-s-14",
        "layer": "dinov2",
        "resizing": "bilinear as in TensorFlow 1, without antialiasing, to 224x224 pixels",
        "dtype": "float32",
        "sha256": hashlib.sha256(dinov2.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize("gated", [False, True])
def test_dinov2_computes_what_another_implementation_does(gated: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    weights = random_dinov2(tmp_path / "weights.pth", width=128, depth=2, side=16, gated=gated)
    options = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
    theirs = transformers.Dinov2Model(
        transformers.Dinov2Config(**options, image_size=224, use_swiglu_ffn=gated, layerscale_value=1.0)
    )
    theirs.load_state_dict(_named_as_in_transformers(weights))
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(network_of(weights)(x), theirs.eval()(x).pooler_output, atol=1e-5)


def _named_as_in_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "mask_token": "embeddings.mask_token",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm.": "layernorm.",
    }
    inside = {"attn.proj": "attention.o_proj", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    named = {}
    for name, value in weights.items():
        if not name.startswith("blocks."):
            ours = next(part for part in parts if name.startswith(part))
            named[name.replace(ours, parts[ours], 1)] = value
            continue
        _, block, rest = name.split(".", 2)
        at, suffix = f"encoder.layer.{block}.", rest.rpartition(".")[2]
        if rest.startswith("attn.qkv"):
            thirds = zip("qkv", value.chunk(3), strict=True)
            named |= {f"{at}attention.{letter}_proj.{suffix}": third for letter, third in thirds}
        elif rest.startswith("mlp.w12"):
            named[f"{at}mlp.gate_proj.{suffix}"], named[f"{at}mlp.up_proj.{suffix}"] = value.chunk(2)
        else:
            rest = rest.replace("mlp.w3", "mlp.down_proj")
            ours = next((part for part in inside if rest.startswith(part)), "")
            named[at + rest.replace(ours, inside.get(ours, ""), 1)] = value
    return named


def test_the_published_position_embeddings_are_resized_to_224_pixels(tmp_path: Path) -> None:
    network = network_of(random_dinov2(tmp_path / "weights.pth", width=64, depth=1))
    positions = network._positions(16)
    assert positions.shape == (1, 257, 64)
    assert torch.equal(positions[:, 0], network.pos_embed[:, 0])
    # A linear ramp stays nearly one: position k of 16 is at (k + 0.5) * 37 / 16.1 - 0.5 of 37, not at that for 16.
    ramp = torch.arange(37.0).repeat_interleave(37)[None, :, None].expand(-1, -1, 64)
    network.pos_embed.data[:, 1:] = ramp
    inner = network._positions(16)[0, 1:, 0].reshape(16, 16)[2:14, 5]
    assert torch.allclose(inner, (torch.arange(2.0, 14) + 0.5) * (37 / 16.1) - 0.5, atol=0.08)


def test_clip_is_loaded_again_by_its_file(clip: Path, tmp_path: Path) -> None:
    found = load_pretrained("clip", clip)
    features, logits = found(images(channels=1))
    assert (features.shape, logits.shape, found.dim) == ((3, 24), (3, 0), 24)
    again = saved_and_loaded(found, tmp_path / "extractor.safetensors")
    assert torch.equal(again(images(channels=1))[0], features)
    description = found.description
    assert (description.name, description.layer, description.dtype) == ("clip-vit-b-32", "clip", "float32")
    assert description.resizing == "bilinear as in TensorFlow 1, without antialiasing, to 32x32 pixels"


def test_an_archive_of_torchscript_is_read_only_if_its_sha256_is_known(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive has the names of the published ones, which have the part for texts, too."""
    from torch_fidelity import feature_extractor_clip as theirs

    model = theirs.build_model(random_clip(**SMALL_CLIP) | {"text_projection": torch.zeros(1, 24)}, torch.float32)
    archive = tmp_path / "ViT-B-32.pt"
    whole = torch.nn.Module()
    whole.visual = torch.jit.trace(model.visual, torch.zeros(1, 3, 32, 32))
    torch.jit.save(torch.jit.script(whole), archive)
    with pytest.raises(UserError, match=r"ViT-B-32\.pt is incomplete, or cannot be read without executing code"):
        load_pretrained("clip", archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(theirs.MODEL_METADATA, "clip-vit-b-32", {"hash": digest, "filename": "ViT-B-32"})
    found = load_pretrained("clip", archive)
    assert torch.equal(found(images())[0], load_pretrained("clip", clip)(images())[0])
    assert found.description.sha256 == digest


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_takes_grey_and_colour_images(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is the real one with random weights, since the real weights are a download of 91 MB."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = tmp_path / "weights.pth"
    torch.save({}, weights)
    monkeypatch.setattr(pretrained, "INCEPTION_SHA256", hashlib.sha256(weights.read_bytes()).hexdigest())
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
    found = load_pretrained("inception", weights)
    inception = saved_and_loaded(found, tmp_path / "extractor.safetensors")
    features, logits = inception(images(2, channels))
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert (inception.description.name, inception.dim, inception.names_classes) == ("inception-v3-compat", 2048, True)
    assert inception.description.layer == "2048, logits_unbiased"


def test_many_images_have_the_features_of_few(dinov2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, some = load_pretrained("dinov2", dinov2), images(7)
    monkeypatch.setattr(pretrained, "AT_ONCE", 3)
    assert torch.allclose(found(some)[0][3:6], found(some[3:6])[0], atol=1e-5)
    assert len(found(some)[0]) == len(found(some)[1]) == 7


def test_changed_weights_are_noticed(dinov2: Path, tmp_path: Path) -> None:
    save(load_pretrained("dinov2", dinov2), tmp_path / "extractor.safetensors")
    torch.save({"other": torch.zeros(1)}, dinov2)
    with pytest.raises(UserError, match=r"dinov2\.pth has sha256 .* of the extractor; put that file back, or"):
        load_extractor(tmp_path / "extractor.safetensors")


@pytest.mark.parametrize("kind", ["inception", "dinov2", "clip"])
def test_missing_weights_are_named_with_their_setting(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"gone\.pth was not found; .* correct features\.{kind}_weights"):
        load_pretrained(kind, tmp_path / "gone.pth")


def test_other_weights_are_not_taken_for_inception(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_bytes(b"not those")
    with pytest.raises(UserError, match=r"has sha256 .* expected 6726825d"):
        load_pretrained("inception", tmp_path / "other.pth")


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, ([sys.executable, "-c", "open('exploded', 'w')"],)


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
@pytest.mark.parametrize("content", ["bomb", "bare bomb", "cut", "empty", "no tensors", "other tensors"])
def test_a_file_of_anything_else_is_refused_and_runs_nothing(
    kind: Any, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    if content == "bomb":
        torch.save({"norm.weight": _Bomb()}, path)
    elif content == "bare bomb":
        path.write_bytes(pickle.dumps(_Bomb()))
    elif content == "cut":
        torch.save({"norm.weight": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:1000])
    else:
        torch.save({"empty": {}, "no tensors": {"a": 1}, "other tensors": {"a": torch.zeros(1)}}[content], path)
    with pytest.raises(UserError, match=r"weights\.pt (is incomplete, or|has other things|has no network)") as refused:
        load_pretrained(kind, path)
    assert "\n" not in str(refused.value)
    assert not Path("exploded").exists()


def test_registers_make_another_network(tmp_path: Path, dinov2: Path) -> None:
    weights = torch.load(dinov2, weights_only=True) | {"register_tokens": torch.zeros(1, 4, 64)}
    torch.save(weights, dinov2)
    with pytest.raises(UserError, match=r"expected the weights of dinov2-vit-s-14 or .*, without registers"):
        load_pretrained("dinov2", dinov2)
