"""An autoencoder saved by diffusers gives the same latents and images here, and one of this project does so there."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddpm import cli, model_file
from ddpm.exchange.diffusers_folder import why_not_exported
from ddpm.model_spec import build_network, spec_of_autoencoder
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.settings import Codec

CODEC = Codec(latent_channels=3, widths=(8, 16), blocks=1, groups=8, attention=True, quant=False, shift=0.3, scale=1.7)
TOLERANCE = 1e-4


def saved_there(folder: Path, **changes: Any) -> diffusers.AutoencoderKL:
    torch.manual_seed(0)
    told: dict[str, Any] = {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "sample_size": 16,
    }
    network = diffusers.AutoencoderKL(**told | changes).eval()
    network.save_pretrained(folder)
    return network


def saved_here(path: Path, codec: Codec = CODEC) -> AutoencoderKL:
    torch.manual_seed(0)
    spec = spec_of_autoencoder(channels=1, size=8, codec=codec)
    network = build_network(spec)
    assert isinstance(network, AutoencoderKL)
    model_file.save(path, network=network, spec=spec, lineage={})
    return network


def images(channels: int, size: int) -> Tensor:
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


def require_alike(ours: AutoencoderKL, theirs: diffusers.AutoencoderKL, x: Tensor) -> None:
    """Compare standardised latents, and the images that are decoded from them."""
    shift, scale = theirs.config.shift_factor or 0.0, theirs.config.scaling_factor
    with torch.no_grad():
        z, q = ours.encode(x), theirs.encode(x).latent_dist
        assert torch.allclose(z, (q.mean - shift) * scale, atol=TOLERANCE, rtol=TOLERANCE)
        assert torch.allclose(ours.q(x)[1], q.logvar, atol=TOLERANCE, rtol=TOLERANCE)
        made = ours.decode(z)
        assert torch.allclose(made, theirs.decode(z / scale + shift).sample, atol=TOLERANCE, rtol=TOLERANCE)
    assert min(z.std(), made.std()) > 0.01


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"shift_factor": 0.1159, "scaling_factor": 0.3611, "use_quant_conv": False, "use_post_quant_conv": False},
        {"mid_block_add_attention": False, "latent_channels": 16},
    ],
    ids=str,
)
def test_an_autoencoder_of_theirs_is_imported_with_its_scale(
    tmp_path: Path, told: dict[str, Any], inside: bool
) -> None:
    theirs = saved_there(tmp_path / "there" / ("vae" if inside else ""), **told)
    file = tmp_path / "model.safetensors"
    assert cli.main(["import-codec", str(tmp_path / "there"), "--out", str(file)]) == 0
    model = model_file.load(file)
    assert (model.spec.method, model.spec.size, model.spec.channels) == ("autoencoder", 16, 3)
    assert isinstance(model.network, AutoencoderKL)
    require_alike(model.network, theirs, images(3, 16))


def test_the_weights_suit_images_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = saved_there(tmp_path / "there")
    words = f"import-codec {tmp_path / 'there'} --size 24 --out {tmp_path / 'model.safetensors'}"
    assert cli.main(words.split()) == 0
    assert "images 24x24, 3 channels; latents 6x6, 4 channels" in capsys.readouterr().out
    model = model_file.load(tmp_path / "model.safetensors")
    assert isinstance(model.network, AutoencoderKL)
    require_alike(model.network, theirs, images(3, 24))


def test_weights_in_half_precision_and_with_the_names_of_the_first_versions_are_read(tmp_path: Path) -> None:
    theirs = saved_there(tmp_path / "there")
    weights = tmp_path / "there" / "diffusion_pytorch_model.safetensors"
    former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in load_file(weights).items():
        for now, before in former.items():
            name = name.replace(now, before)
        old[name] = tensor.half()
    save_file(old, weights)
    theirs.load_state_dict({name: value.half().float() for name, value in theirs.state_dict().items()})
    assert cli.main(["import-codec", str(tmp_path / "there"), "--out", str(tmp_path / "m.safetensors")]) == 0
    model = model_file.load(tmp_path / "m.safetensors")
    assert isinstance(model.network, AutoencoderKL)
    require_alike(model.network, theirs, images(3, 16))


@pytest.mark.parametrize("changes", [{}, {"quant": True, "attention": False, "blocks": 2}], ids=str)
def test_an_autoencoder_of_this_project_is_read_there_and_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    file, folder, again = tmp_path / "model.safetensors", tmp_path / "there", tmp_path / "again.safetensors"
    ours = saved_here(file, Codec(**vars(CODEC) | changes))
    assert cli.main(["export-codec", "--model", str(file), "--out", str(folder)]) == 0
    require_alike(ours, diffusers.AutoencoderKL.from_pretrained(folder), images(1, 8))
    assert cli.main(["import-codec", str(folder), "--out", str(again)]) == 0
    one, other = model_file.load(file), model_file.load(again)
    assert one.spec == other.spec
    assert all(torch.equal(value, other.network.state_dict()[name]) for name, value in one.network.state_dict().items())


def test_of_a_model_that_draws_latents_the_autoencoder_is_exported_and_the_network_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = saved_here(tmp_path / "autoencoder.safetensors")
    spec = dataclasses.replace(spec_of_autoencoder(channels=1, size=8, codec=CODEC), method="diffusion")
    file = tmp_path / "model.safetensors"
    model_file.save(file, network=build_network(spec), spec=spec, lineage={}, codec=ours)
    assert cli.main(["export-codec", "--model", str(file), "--out", str(tmp_path / "there")]) == 0
    require_alike(ours, diffusers.AutoencoderKL.from_pretrained(tmp_path / "there"), images(1, 8))
    assert cli.main(["export-unet", "--model", str(file), "--out", str(tmp_path / "unet")]) == 1
    assert "it draws latents" in capsys.readouterr().err
    assert "it draws latents" in (why_not_exported(spec) or "")


def test_a_model_without_an_autoencoder_is_refused(
    tmp_path: Path, tiny_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(tmp_path / "model.safetensors")
    words = f"export-codec --model {tmp_path / 'model.safetensors'} --out {tmp_path / 'there'}"
    assert cli.main(words.split()) == 1
    assert "this model has no autoencoder; export it with `ddpm export-unet`" in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Return the error of importing the folder: one sentence, and no file is written."""
    out = folder.parent / "model.safetensors"
    assert cli.main(["import-codec", str(folder), "--out", str(out), *more]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not out.exists()
    return said


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("block_out_channels", "wide"),
        ("block_out_channels", [8, 10**9, 16]),
        ("block_out_channels", [8, 16]),
        ("block_out_channels", [8] * 13),
        ("block_out_channels", [8, 12, 16]),
        ("down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"]),
        ("up_block_types", ["UpDecoderBlock2D"]),
        ("layers_per_block", 10**9),
        ("layers_per_block", 63),
        ("norm_num_groups", 3),
        ("act_fn", "gelu"),
        ("latent_channels", True),
        ("latent_channels", 5),
        ("sample_size", 10**9),
        ("sample_size", 18),
        ("scaling_factor", 0),
        ("scaling_factor", float("nan")),
        ("shift_factor", float("inf")),
        ("latents_mean", [0.1, 0.2, 0.3, 0.4]),
        ("use_post_quant_conv", False),
        ("mid_block_add_attention", "no"),
        ("out_channels", 1),
        ("norm_type", "spatial"),
        ("_class_name", "AutoencoderTiny"),
    ],
)
def test_an_option_that_this_project_has_not_or_of_any_size_is_refused_by_name(
    option: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_there(tmp_path / "there")
    config = tmp_path / "there" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {option: value}))
    said = refused(tmp_path / "there", capsys)
    words = {"sample_size": "size is 18", "block_out_channels": "widths has 12", "norm_num_groups": "groups (3)"} | {
        "layers_per_block": "blocks, but the file has"
    }
    through_the_weights = option in ("layers_per_block", "latent_channels", "block_out_channels")
    assert option in said or words.get(option, "\0") in said or (through_the_weights and "for " in said), said


def test_weights_that_cannot_be_read_are_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "there"
    assert "has no config.json and no vae/config.json" in refused(folder, capsys)
    saved_there(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    whole = load_file(weights)
    save_file(whole | {"encoder.conv_in.bias": torch.full((8,), float("nan"))}, weights)
    assert "non-finite numbers in encoder.conv_in.bias" in refused(folder, capsys)
    save_file(whole | {"encoder.conv_in.bias": torch.full((8,), 1e300, dtype=torch.float64)}, weights)
    assert "non-finite numbers in encoder.conv_in.bias" in refused(folder, capsys), "it is saved as float32"
    save_file(whole | {"encoder.conv_in.bias": torch.zeros(8, dtype=torch.int32)}, weights)
    assert "has I32 in encoder.conv_in.bias" in refused(folder, capsys)
    save_file(whole | {"one.more": torch.zeros(1)}, weights)
    assert "the weights have [1] for one.more, but config.json requires nothing" in refused(folder, capsys)
    save_file({name: value for name, value in whole.items() if name != "decoder.conv_out.bias"}, weights)
    assert "the weights have nothing for decoder.conv_out.bias" in refused(folder, capsys)
    weights.write_bytes(weights.read_bytes()[:-9])
    assert "is not a complete safetensors file" in refused(folder, capsys)
    weights.rename(weights.with_suffix(".bin"))
    assert "save the model again with safe_serialization=True" in refused(folder, capsys)
    (folder / "config.json").write_text(" " * 2**21)
    weights.with_suffix(".bin").rename(weights)
    assert "is not a complete safetensors file" in refused(folder, capsys)
    save_file(whole, weights)
    assert "bytes, expected at most 1048576" in refused(folder, capsys)


def test_what_exists_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = tmp_path / "model.safetensors", tmp_path / "there"
    saved_here(file)
    saved_there(folder)
    assert cli.main(["import-codec", str(folder), "--out", str(file)]) == 1
    assert "already exists; name a new file" in capsys.readouterr().err
    assert cli.main(["export-codec", "--model", str(file), "--out", str(folder)]) == 1
    assert "is not an empty folder; name a new one" in capsys.readouterr().err
