"""diffusers' UNet2DModel and this project's U-Net exchange weights and give the same output."""

import json
from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from small_unet import SMALL
from torch import Tensor

from ddpm.exchange.unet_exchange import from_diffusers, to_diffusers, with_time_shifted
from ddpm.exchange.unet_options import ExchangeError
from ddpm.networks.settings import CONVENTION
from ddpm.networks.unet import UNet

# Sums of a few hundred products, in another order: some units in the last place of numbers of order 1.
TOLERANCE = 1e-5

EXAMPLE: dict[str, Any] = {  # diffusers' examples/unconditional_image_generation with a quarter of the width
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "block_out_channels": (32, 32, 64, 64, 128, 128),
    "down_block_types": (*["DownBlock2D"] * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *["UpBlock2D"] * 4),
}
CIFAR10: dict[str, Any] = {  # google/ddpm-cifar10-32: Ho et al. 2020, appendix B
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
RESIDUAL: dict[str, Any] = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 32, 48),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
PLAIN = replace(CONVENTION, middle_attention="plain")
VARIANTS: dict[str, dict[str, Any]] = {
    "the default of diffusers' training example": EXAMPLE,
    "Ho et al.'s network, a quarter as wide": CIFAR10 | {"block_out_channels": [32, 64, 64, 64]},
    "grey": SMALL,
    "colour": SMALL | {"in_channels": 3, "out_channels": 3},
    "a variance beside the mean": SMALL | {"out_channels": 2},
    "scale and shift, no norm before the middle attention": SMALL | {"resnet_time_scale_shift": "scale_shift"},
    "scale and shift, with it": SMALL | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "residual resampling": SMALL | RESIDUAL,
    "ADM": SMALL | RESIDUAL | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8},
    "classes": SMALL | {"num_class_embeds": 5},
    "no attention in the middle": SMALL | {"add_attention": False},
    "one head": SMALL | {"attention_head_dim": None},
    "padding on one side": SMALL | {"downsample_padding": 0},
    "sines first": SMALL | {"flip_sin_to_cos": False, "freq_shift": 1},
    "three levels that attend": SMALL
    | {
        "block_out_channels": (16, 16, 32),
        "down_block_types": ["AttnDownBlock2D"] * 3,
        "up_block_types": ["AttnUpBlock2D"] * 3,
    },
    "one resolution": SMALL
    | {"block_out_channels": (16,), "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
}


def awakened(network: torch.nn.Module) -> Any:
    """Set weights of a size that preserves the signal, none of them zero or one."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.1)
    return network.eval()


def theirs(options: dict[str, Any]) -> diffusers.UNet2DModel:
    torch.manual_seed(0)
    return awakened(diffusers.UNet2DModel(**options))


def ours(architecture: dict[str, Any], state: dict[str, Tensor]) -> UNet:
    network = UNet(**architecture)
    network.load_state_dict(state)
    return network.eval()


def config_of(network: diffusers.UNet2DModel) -> dict[str, Any]:
    """Return the options in its config.json."""
    return json.loads(network.to_json_string())


def question(options: dict[str, Any], n: int = 2) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, options["in_channels"], options["sample_size"], options["sample_size"], generator=generator)
    labels = torch.tensor([0, 4][:n]) if options.get("num_class_embeds") else None
    return x, torch.tensor([0, 999][:n]), labels


@torch.no_grad()
def difference(network: UNet, other: diffusers.UNet2DModel, options: dict[str, Any], n: int = 2) -> float:
    """Return the largest difference between the two outputs for the same input."""
    x, t, labels = question(options, n)
    answer = other(x, t, class_labels=labels).sample
    assert answer.std() > 0.2  # the output is not trivial
    return float((network(x, t, labels) - answer).abs().max())


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_their_weights_give_the_same_output_here(options: dict[str, Any]) -> None:
    other = theirs(options)
    network = ours(*from_diffusers(config_of(other), other.state_dict()))
    assert sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in other.parameters()) == (
        4 * network.width if network.classes else 0  # the row of "no label"
    )
    assert difference(network, other, options) < TOLERANCE


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS.keys())
def test_there_and_back_is_the_same_network(options: dict[str, Any]) -> None:
    other = theirs(options)
    architecture, state = from_diffusers(config_of(other), other.state_dict())
    config, back = to_diffusers(architecture, state)
    again = diffusers.UNet2DModel.from_config(config)
    again.load_state_dict(back)
    assert difference(ours(architecture, state), again.eval(), options) < TOLERANCE
    classes = bool(architecture["classes"])
    there = from_diffusers(config, back, null_label=classes)
    assert there[0] == architecture
    assert all(torch.equal(there[1][name], value) for name, value in state.items())


def test_the_network_of_ho_et_al_has_its_35_7_million_parameters_and_the_same_output_here() -> None:
    other = theirs(CIFAR10)
    network = ours(*from_diffusers(CIFAR10, other.state_dict()))
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in other.parameters()) == 35_746_307
    assert difference(network, other, CIFAR10, n=1) < TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {"sample_size": 64},  # UNet2DModel's own defaults
        EXAMPLE | {"sample_size": 64, "block_out_channels": (128, 128, 256, 256, 512, 512)},
        CIFAR10
        | {  # google/ddpm-cat-256
            "sample_size": 256,
            "block_out_channels": [128, 128, 256, 256, 512, 512],
            "down_block_types": EXAMPLE["down_block_types"],
            "up_block_types": EXAMPLE["up_block_types"],
        },
    ],
    ids=["UNet2DModel()", "train_unconditional", "ddpm-cat-256"],
)
def test_every_tensor_of_a_network_of_full_size_has_its_place_there_and_back(options: dict[str, Any]) -> None:
    with torch.device("meta"):  # shapes without numbers
        other = diffusers.UNet2DModel(**options)
    architecture, state = from_diffusers(other.config, other.state_dict())
    assert sum(tensor.numel() for tensor in state.values()) == sum(p.numel() for p in other.parameters())
    _, back = to_diffusers(architecture, state)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in other.state_dict().items()}


@pytest.mark.parametrize("embedding", ["scale_shift", "add"])
@pytest.mark.parametrize("resample", ["residual", "conv"])
@pytest.mark.parametrize("classes", [0, 4])
def test_a_network_of_this_project_gives_the_same_output_there(embedding: str, resample: str, classes: int) -> None:
    torch.manual_seed(0)
    architecture: dict[str, Any] = dict(
        channels=1,
        size=8,
        classes=classes,
        width=16,
        multipliers=(1, 2),
        blocks=2,
        attention=(8, 4),
        head_channels=16,
        dropout=0.1,
        embedding=embedding,
        resample=resample,
        groups=8,
        augmentation=9 if classes else 0,  # which an exported network has not: it is the one for untouched images
    )
    network = awakened(UNet(**architecture))
    config, state = to_diffusers(architecture, network.state_dict())
    other = diffusers.UNet2DModel.from_config(config).eval()
    other.load_state_dict(state)
    options = {"in_channels": 1, "sample_size": 8, "num_class_embeds": config["num_class_embeds"]}
    assert difference(network, other, options) < TOLERANCE
    x, t, _ = question(options)
    null = torch.full((2,), classes) if classes else None
    with torch.no_grad():
        assert torch.allclose(network(x, t, None), other(x, t, class_labels=null).sample, atol=TOLERANCE)


def test_gradients_are_the_same_too() -> None:
    """The gradients agree, so a training from the same weights takes the same first step."""
    other = theirs(SMALL).train()
    architecture, state = from_diffusers(config_of(other), other.state_dict())
    network = ours(architecture, state).train()
    x, t, _ = question(SMALL)
    network(x, t).square().mean().backward()
    other(x, t).sample.square().mean().backward()
    _, expected = from_diffusers(config_of(other), {name: p.grad for name, p in other.named_parameters()})
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter.grad, expected[name], atol=1e-5, rtol=1e-4), name


def test_weights_of_the_first_versions_of_diffusers_are_read() -> None:
    other = theirs(SMALL)
    now = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    former = {}
    for name, tensor in other.state_dict().items():
        for new, old in now.items():
            name = name.replace(f".{new}.", f".{old}.")
        former[name] = tensor
    assert any("proj_attn" in name for name in former)
    network = ours(*from_diffusers(config_of(other), former))
    assert difference(network, other, SMALL) < TOLERANCE


@pytest.mark.parametrize("shift", [0, 1])
def test_time_that_is_counted_from_another_step_moves_into_the_weights(shift: int) -> None:
    other = theirs(SMALL | {"freq_shift": shift})
    architecture, state = from_diffusers(config_of(other), other.state_dict())
    network, from_one = ours(architecture, state), ours(architecture, with_time_shifted(architecture, state, by=-1))
    x = torch.randn(50, 1, 8, 8)
    t = torch.linspace(0, 999, 50).round()
    with torch.no_grad():
        # An angle near 1000 is a float32 with steps of 6e-5, which both sides round differently.
        assert torch.allclose(from_one(x, t + 1), network(x, t), atol=1e-4)
        assert not torch.allclose(from_one(x, t), network(x, t), atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"center_input_sample": True}, "center_input_sample is true, expected false"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ({"time_embedding_dim": 100}, "time_embedding_dim is 100, expected null or 64"),
        ({"mid_block_type": None}, "mid_block_type is null"),
        ({"mid_block_scale_factor": 1.4}, "mid_block_scale_factor is 1.4"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'"),
        ({"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift is 'spatial'"),
        ({"downsample_padding": 2}, "downsample_padding is 2"),
        ({"sample_size": None}, "sample_size is null"),
        ({"sample_size": [8, 16]}, r"sample_size is \[8, 16\]"),
        ({"block_out_channels": (16, 24)}, r"block_out_channels is \[16, 24\].*multiples of the first"),
        ({"norm_num_groups": 5}, "norm_num_groups is 5"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups is 4"),
        ({"attention_head_dim": 12}, "attention_head_dim is 12"),
        ({"down_block_types": ("SkipDownBlock2D", "DownBlock2D")}, "down_block_types has SkipDownBlock2D"),
        ({"down_block_types": ("DownBlock2D", "DownBlock2D")}, "attention at the levels of down_block_types"),
        ({"down_block_types": ("DownBlock2D",)}, "down_block_types has 1 entries"),
        ({"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D")}, "expected one kind"),
        ({"upsample_type": "resnet"}, "expected one kind"),
        ({"colour": "blue"}, "colour is not a known key"),
        ({"_class_name": "UNet2DConditionModel"}, "_class_name is 'UNet2DConditionModel'"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ExchangeError, match=says):
        from_diffusers(SMALL | changes, {})


def test_weights_of_another_network_are_refused_by_name() -> None:
    state = dict(theirs(SMALL).state_dict())
    lacking = {name: tensor for name, tensor in state.items() if name != "conv_out.bias"}
    with pytest.raises(ExchangeError, match=r"no conv_out\.bias"):
        from_diffusers(SMALL, lacking)
    with pytest.raises(
        ExchangeError, match=r"have class_embedding\.weight, which does not belong to the network of config\.json"
    ):
        from_diffusers(SMALL, state | {"class_embedding.weight": torch.zeros(3, 64)})
    with pytest.raises(ExchangeError, match=r"\[3, 16, 3, 3\] for conv_out\.weight"):
        from_diffusers(SMALL, state | {"conv_out.weight": torch.zeros(3, 16, 3, 3)})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"multipliers": (2, 4)}, r"multipliers is \[2, 4\]"),
        ({"patch": 2}, "patch is 2, but in diffusers a position is one pixel"),
        ({"size": 9}, "size is 9.*multiple of 2"),
        ({"groups": None}, "groups is null.*4 for 16 channels and 8 for 32"),
        ({"head_channels": 20, "multipliers": (1, 3)}, "heads of 16 and 24 channels"),
        (
            {"embedding": "add", "convention": replace(CONVENTION, middle_attention="plain")},
            "middle_attention is plain",
        ),
    ],
)
def test_what_diffusers_cannot_express_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    architecture: dict[str, Any] = dict(
        channels=1, size=8, classes=0, width=16, multipliers=(1, 2), blocks=1, attention=(8, 4), dropout=0.0, groups=8
    )
    architecture |= {"head_channels": 16} | changes
    with pytest.raises(ExchangeError, match=says):
        to_diffusers(architecture, {})
