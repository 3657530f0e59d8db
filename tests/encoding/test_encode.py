"""Latents are those of the images, whatever their shards, and standardised by their own mean and deviation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ddpm import model_file
from ddpm.data.reading.dataset import read_latents, read_split
from ddpm.data.reading.shard_index import read_index
from ddpm.data.reading.sharded_images import ShardedImages
from ddpm.encoding.encode import encoded, write_latents
from ddpm.encoding.pixels import write_no_autoencoder, write_no_latents
from ddpm.encoding.standardise import standardised
from ddpm.errors import UserError
from ddpm.images import to_model_range
from ddpm.model_file import Model
from ddpm.model_spec import Spec, build_codec, build_network, spec_of_autoencoder
from ddpm.networks.settings import Codec

CODEC = Codec(latent_channels=2, widths=(8, 8), blocks=1, groups=4, attention=False, quant=False, shift=0.25, scale=1.5)
SPEC = spec_of_autoencoder(channels=1, size=8, codec=CODEC)
IMAGES = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)


@pytest.fixture
def autoencoder(tmp_path: Path) -> Model:
    torch.manual_seed(0)
    model_file.save(tmp_path / "autoencoder.safetensors", network=build_codec(SPEC), spec=SPEC, lineage={})
    return model_file.load(tmp_path / "autoencoder.safetensors")


def test_latents_of_several_shards_are_those_of_one_and_of_the_images(
    autoencoder: Model, tmp_path: Path, write_split: Callable[..., None]
) -> None:
    for name, shard_bytes in (("one", 1 << 30), ("several", 128 + 20 * 64)):
        write_split(tmp_path / name / "train", IMAGES, shard_bytes=shard_bytes)
        index = read_index(tmp_path / name / "train")
        images = read_split(tmp_path / name, "train").images if name == "one" else IMAGES
        write_latents(tmp_path / f"{name}-latents", autoencoder, images, index, precision="float32", batch=7)
    one, several = (read_latents(tmp_path / f"{name}-latents") for name in ("one", "several"))
    assert one is not None
    assert several is not None
    assert isinstance(several.samples, ShardedImages)
    assert len(several.samples.sizes) == 3
    assert (several.samples[:] == one.samples[:]).all()
    assert (several.samples.dtype, several.samples.nbytes) == (np.dtype(np.float16), one.samples.nbytes)
    assert several.autoencoder_sha256 == autoencoder.sha256
    with torch.inference_mode():
        assert autoencoder.codec is not None
        mean, _ = autoencoder.codec.q(to_model_range(torch.from_numpy(IMAGES)))
    torch.testing.assert_close(
        torch.from_numpy(one.samples[:].astype(np.float32)), 1.5 * (mean - 0.25), rtol=1e-3, atol=1e-3
    )


def test_standardised_latents_have_mean_0_and_standard_deviation_1(autoencoder: Model) -> None:
    assert autoencoder.codec is not None
    device = torch.device("cpu")
    spec = standardised(SPEC, autoencoder.codec, IMAGES, precision="float32", batch=7, device=device)
    assert spec.codec is not None
    again = build_codec(spec)
    again.load_state_dict(autoencoder.codec.state_dict())
    model = replace(autoencoder, network=again.eval(), codec=again.eval(), spec=spec)
    latents = encoded(model, IMAGES, precision="float32").astype(np.float64)
    assert latents.mean() == pytest.approx(0, abs=1e-3)
    assert latents.std() == pytest.approx(1, abs=1e-3)
    same = np.zeros_like(IMAGES)
    for weight in autoencoder.codec.parameters():
        torch.nn.init.zeros_(weight)
    with pytest.raises(UserError, match=r"standard deviation of 0\.0, expected one above 0"):
        standardised(SPEC, autoencoder.codec, same, precision="float32", batch=50, device=device)


def test_without_latents_the_files_say_so_and_are_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_no_autoencoder(tmp_path / f"{name}.safetensors")
        write_no_latents(tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert read_latents(tmp_path / "a") is None
    with pytest.raises(UserError, match="was not written by this project"):
        model_file.load(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="create it with `dvc repro encode`"):
        read_latents(tmp_path)


def test_a_model_of_latents_keeps_its_autoencoder_and_an_incomplete_file_is_refused(
    tmp_path: Path, spec_with: Callable[..., Spec]
) -> None:
    spec = replace(spec_with(objective={"bounded": False}), codec=CODEC)
    assert spec.noise_shape == (2, 4, 4)
    codec, file = build_codec(spec), tmp_path / "model.safetensors"
    sha256 = model_file.save(file, network=build_network(spec), spec=spec, lineage={}, codec=codec)
    model = model_file.load(file)
    assert model.codec is not None
    assert (model.sha256, model.spec) == (sha256, spec)
    assert all((a == b).all() for a, b in zip(model.codec.parameters(), codec.parameters(), strict=True))
    pixels = to_model_range(torch.from_numpy(IMAGES[:3]))
    assert model.decoded(model.encoded(pixels)).shape == pixels.shape
    from safetensors.torch import load_file, save_file

    tensors, header = load_file(file), file.read_bytes()
    length = int.from_bytes(header[:8], "little")
    import json

    metadata = json.loads(header[8 : 8 + length])["__metadata__"]
    save_file({name: each for name, each in tensors.items() if name != "codec.decoder.conv_out.bias"}, file, metadata)
    with pytest.raises(UserError, match=r"has nothing for codec\.decoder\.conv_out\.bias"):
        model_file.load(file)
