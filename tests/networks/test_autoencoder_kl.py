"""The autoencoder computes what diffusers' does with the same weights under the same names."""

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ddpm.compute.hardware import Precision, autocast, memory_format
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.cast_weights import with_cast_weights
from ddpm.networks.settings import Codec

CPU = torch.device("cpu")
CODEC = Codec(
    latent_channels=4,
    widths=(16, 24, 32),
    blocks=1,
    groups=8,
    attention=True,
    quant=True,
    shift=0.0,
    scale=1.0,
)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"attention": False, "quant": False, "blocks": 2},
    {"widths": (8,), "latent_channels": 3, "groups": 4},
]


def network(*, channels: int = 1, **changes: Any) -> AutoencoderKL:
    """Return an autoencoder with random weights, also where training begins with ones or zeros."""
    torch.manual_seed(0)
    made = AutoencoderKL(channels=channels, **vars(CODEC) | changes)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def theirs(*, channels: int = 1, **changes: Any) -> diffusers.AutoencoderKL:
    told = vars(CODEC) | changes
    levels = len(told["widths"])
    return diffusers.AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=told["widths"],
        layers_per_block=told["blocks"],
        latent_channels=told["latent_channels"],
        norm_num_groups=told["groups"],
        mid_block_add_attention=told["attention"],
        use_quant_conv=told["quant"],
        use_post_quant_conv=told["quant"],
    ).eval()


def images(channels: int = 1, *, n: int = 3, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_with_the_weights_of_theirs_moments_and_images_are_theirs(
    channels: int, changes: dict[str, Any], learns: bool
) -> None:
    ours, other = network(channels=channels, **changes), theirs(channels=channels, **changes)
    other.load_state_dict(ours.state_dict())
    x = images(channels)
    with torch.set_grad_enabled(learns):
        mean, log_var = ours.q(x)
        said = other.encode(x).latent_dist
        drawn, there = ours.decode(mean), other.decode(mean).sample
    assert drawn.shape == x.shape
    for one, another in ((mean, said.mean), (log_var, said.logvar), (drawn, there)):
        assert one.std() > 0.05
        assert torch.allclose(one, another, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_a_state_dict_goes_both_ways_without_a_mapping(changes: dict[str, Any]) -> None:
    ours, other = network(**changes), theirs(**changes)
    assert {name: weight.shape for name, weight in ours.state_dict().items()} == {
        name: weight.shape for name, weight in other.state_dict().items()
    }
    ours.load_state_dict(other.state_dict())
    x = images()
    with torch.no_grad():
        assert torch.allclose(ours.encode(x), other.encode(x).latent_dist.mean, atol=1e-4, rtol=1e-4)


def test_standardised_latents_are_shifted_and_scaled_and_decoded_back() -> None:
    plain, standard = network(), network(shift=0.5, scale=3.0)
    x = images()
    with torch.no_grad():
        mean, z = plain.q(x)[0], standard.encode(x)
        assert torch.allclose(z, (mean - 0.5) * 3.0)
        assert torch.allclose(standard.decode(z), plain.decode(mean), atol=1e-5)
        assert torch.equal(standard.draw(z), standard.decode(z))


def test_training_decodes_a_sample_of_q() -> None:
    made, x = network(shift=0.5, scale=3.0), images()
    eps = torch.randn(3, 4, 4, 6)
    with torch.no_grad():
        x_hat, mean, log_var = made(x, eps)
        q = torch.distributions.Normal(mean, (0.5 * log_var).exp())
        z = (q.mean + q.stddev * eps - 0.5) * 3.0
        assert torch.allclose(x_hat, made.decode(z), atol=1e-4)
        assert not torch.allclose(x_hat, made.decode(made.encode(x)), atol=1e-2)


@pytest.mark.parametrize(
    ("size", "width", "precision"),
    [(8, 8, "float32"), (8, 32, "float32"), (20, 64, "float32"), (8, 32, "bf16"), (20, 32, "bf16")],
)
def test_an_image_is_the_same_to_the_bit_in_any_batch_where_nothing_is_learned(
    size: int, width: int, precision: Precision
) -> None:
    made = network(widths=(width, width), channels=3).to(memory_format=memory_format(CPU, precision))
    x = images(3, n=18, size=(size, size))
    with torch.inference_mode(), autocast(CPU, precision):
        for compute, given in ((made.encode, x), (made.decode, made.encode(x))):
            done = {n: torch.cat([compute(given[k : k + n]) for k in range(0, 18, n)]) for n in (1, 2, 3, 7, 18)}
            assert [n for n, results in done.items() if not torch.equal(results, done[18])] == []


def test_weights_that_are_cast_once_compute_the_same_in_bf16() -> None:
    made = network(widths=(32, 64)).to(memory_format=memory_format(CPU, "bf16"))
    cast, x = with_cast_weights(made, torch.bfloat16), images(size=(16, 16))
    with torch.inference_mode(), autocast(CPU, "bf16"):
        assert torch.equal(cast.decode(cast.encode(x)), made.decode(made.encode(x)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"widths": ()}, "widths has 0 resolutions, expected 1 to 12"),
        ({"widths": (8,) * 13}, "widths has 13 resolutions"),
        ({"widths": (16, 20)}, "widths has 20, expected multiples of 8"),
        ({"widths": (16, 24), "groups": 16}, r"widths has 24, expected multiples of 8 and of groups \(16\)"),
        ({"scale": 0.0}, "scale is 0.0, expected a number above 0"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"shift": float("nan")}, "shift is nan, expected a finite number"),
        ({"latent_channels": 0}, "latent_channels is 0, expected a number above 0"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Codec(**vars(CODEC) | changes)


def test_the_factor_is_how_many_times_latents_are_smaller() -> None:
    assert CODEC.factor == 4
    assert network().encode(images()).shape == (3, 4, 16 // 4, 24 // 4)
