"""Group normalisation, attention and upsampled convolution for CPUs give torch's values."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.networks import kernels
from ddpm.networks.unet import UNet

BF16 = 2.0**-8
"""Spacing of bf16 numbers near 1."""


def images(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.to(torch.bfloat16).to(memory_format=torch.channels_last)


def relative(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())


AT_ONCE = [4 << 20, 2 * 24 * 64 * 2, 1]
"""Sizes in bytes of all five images of 24 channels of 8x8, of two of them, and of less than one."""


@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("mean", [0.0, 5.0])
def test_group_norm_and_its_gradients_are_those_of_torch_to_bf16_rounding(
    silu: bool, mean: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_CACHE_BYTES", at_once)
    x = (images(5, 24, 8, 8) + mean).detach()
    torch.manual_seed(0)
    scale, shift = torch.randn(5, 24), torch.randn(24).expand(5, -1)
    weight = images(5, 24, 8, 8)

    def gradients(fast: bool) -> list[Tensor]:
        given = [v.clone().requires_grad_() for v in ((x if fast else x.float()), scale, shift)]
        if fast:
            y = kernels.group_norm(*given, groups=6, eps=1e-5, silu=silu)
        else:
            y = F.group_norm(given[0], 6, eps=1e-5) * given[1][:, :, None, None] + given[2][:, :, None, None]
            y = F.silu(y) if silu else y
        return [y, *torch.autograd.grad((y.float() * weight.float()).sum(), given)]

    for ours, theirs in zip(gradients(True), gradients(False), strict=True):
        # Inputs with a mean of 5 have five times the spacing of inputs with a mean of 0.
        assert relative(ours, theirs) < (1 + mean) * BF16


def test_group_norm_leaves_what_it_is_given_as_it_was_in_float32_too() -> None:
    x, scale, shift = torch.randn(2, 8, 4, 4), torch.randn(2, 8), torch.randn(2, 8)
    before = x.clone()
    given = x.clone().requires_grad_()
    y = kernels.group_norm(given, scale, shift, groups=2, eps=1e-5, silu=False)
    gradient = torch.randn_like(y)
    kept = gradient.clone()
    y.backward(gradient)
    assert torch.equal(given.detach(), before)
    assert torch.equal(gradient, kept)
    plain = x.clone().requires_grad_()
    (F.group_norm(plain, 2, eps=1e-5) * scale[:, :, None, None] + shift[:, :, None, None]).backward(kept)
    torch.testing.assert_close(given.grad, plain.grad)


def test_no_images_are_no_images() -> None:
    empty = torch.empty(0, 8, 4, 4, dtype=torch.bfloat16)
    y = kernels.group_norm(empty, torch.empty(0, 8), torch.empty(0, 8), groups=2, eps=1e-5, silu=True)
    assert y.shape == empty.shape
    q = torch.empty(0, 16, 8, dtype=torch.bfloat16)
    assert kernels.attention(q, q, q).shape == q.shape


@pytest.mark.parametrize("at_once", [4 << 20, 1 << 20, 1])
@pytest.mark.parametrize(("length", "dim"), [(16, 8), (300, 8), (64, 32)])
def test_attention_and_its_gradients_are_those_of_torch_to_bf16_rounding(
    length: int, dim: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_CACHE_BYTES", at_once)
    given = [torch.randn(70, length, dim) for _ in range(3)]
    weight = torch.randn(70, length, dim)

    def gradients(attend: object, dtype: torch.dtype) -> list[Tensor]:
        q, k, v = (x.to(dtype).requires_grad_() for x in given)
        h = attend(q, k, v)  # type: ignore[operator]
        return [h, *torch.autograd.grad((h * weight.to(dtype)).sum(), (q, k, v))]

    exact = gradients(F.scaled_dot_product_attention, torch.float64)
    for ours, theirs in zip(gradients(kernels.attention, torch.bfloat16), exact, strict=True):
        assert relative(ours, theirs) < 3 * BF16


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_upsampled_convolution_is_the_convolution_of_the_upsampled_image(layout: torch.memory_format) -> None:
    conv = nn.Conv2d(5, 7, 3, padding=1).double()
    x = torch.randn(2, 5, 6, 9, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    fast, plain = kernels.upsampled_conv(x, conv), conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(fast, plain)
    assert fast.is_contiguous(memory_format=layout)
    places = (x, conv.weight, conv.bias)
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), places) for y in (fast, plain)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_network_in_bf16_is_as_near_to_float32_as_torch_s_own_kernels_bring_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    network = UNet(
        channels=1,
        size=16,
        classes=0,
        width=32,
        multipliers=(1, 2),
        blocks=1,
        attention=(8,),
        head_channels=8,
        dropout=0,
    )
    for parameter in network.parameters():  # layers that start as zero would hide the layers before them
        nn.init.normal_(parameter, std=0.1)
    x, t = images(4, 1, 16, 16).float(), torch.tensor([1, 50, 500, 900])

    def output(bf16: bool) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return network(x, t).float()

    exact, ours = output(False), output(True)
    monkeypatch.setattr(kernels, "suits", lambda x: False)
    assert relative(ours, exact) < 2 * relative(output(True), exact)
