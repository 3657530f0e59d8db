"""Operations that torch computes slowly on a CPU, composed of fast ones: the same values up to rounding.

docs/performance.md has the measurements. On CUDA and MPS torch's own kernels are faster.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ddpm.networks import native_norm
from ddpm.networks.native_norm import NativeGroupNorm

_CACHE_BYTES = 4 << 20
"""Size of the part that is processed at a time: fits into the processor's cache and is enough for all its cores."""

ROWS = 16
"""In a matrix product whose number of rows is a multiple of this, the bits of a row do not depend on the number."""

UPSAMPLED_FROM = 64
"""Number of positions from which `upsampled_conv` saves more than its copies cost."""


def suits(x: Tensor) -> bool:
    """Return whether `group_norm` and `attention` here are faster than torch's for `x`: bf16 on a CPU."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def group_norm(x: Tensor, scale: Tensor, shift: Tensor, *, groups: int, eps: float, silu: bool) -> Tensor:
    """Return group normalisation of x [N,C,H,W], times `scale` plus `shift` (both [N,C]), then SiLU if `silu`.

    Statistics are float32. It is fastest if x is channels_last; the result has the memory layout of x.
    """
    function = NativeGroupNorm if native_norm.is_on() and suits(x) else _GroupNorm
    return function.apply(x, scale.float(), shift.float(), groups, eps, silu)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v for q, k, v [B,L,d].  Vaswani et al. 2017, Eq. 1.

    The backward pass computes the scores again, and they are stored for only a few of the B at a time.
    """
    return _Attention.apply(q.contiguous(), k.contiguous(), v.contiguous())


def conv(x: Tensor, layer: nn.Module) -> Tensor:
    """Return layer(x). On a CPU without gradients, an image's result is the same to the bit in any batch.

    torch uses oneDNN for several images, but its own loops, which round differently, for a single small image and for
    up to 15 images in a 1x1 convolution on one thread. Here it is always oneDNN.
    A layer that is not nn.Conv2d, but one with an adapter beside it, computes by itself.
    """
    if not isinstance(layer, nn.Conv2d):
        return layer(x)
    return _conv2d(x, layer.weight, layer.bias, stride=layer.stride, padding=layer.padding)


def linear(x: Tensor, layer: nn.Module) -> Tensor:
    """Return layer(x) for x [N,C]. On a CPU without gradients, a row's result is the same to the bit for any N.

    Matrix products of few rows use another program, which rounds differently, so x is padded with rows of zeros.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return layer(x)
    return layer(F.pad(x, (0, 0, 0, -len(x) % ROWS)))[: len(x)]


def _conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Any = (1, 1), padding: Any = (0, 0)) -> Tensor:
    exact = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if torch.is_grad_enabled() or not exact or not torch.backends.mkldnn.is_available():
        return F.conv2d(x, weight, bias, stride, padding)
    return torch.mkldnn_convolution(x.contiguous(), weight.contiguous(), bias, padding, stride, (1, 1), 1)


def upsampled_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return conv (3x3, padding 1) of x [N,C,H,W] upsampled by 2 (each pixel repeated 2x2): [N,C_out,2H,2W].

    Three rows of the large image cover two rows of the small one: a kernel's rows (a, b, c) act as (a, b + c) on even
    rows and as (a + b, c) on odd ones, and columns likewise. Four 2x2 convolutions on the small image need 4/9 of the
    products. The result has the memory layout of x.
    """
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    (a, b, c) = conv.weight.unbind(2)
    even, odd = torch.stack([a, b + c], dim=2), torch.stack([a + b, c], dim=2)
    x = F.pad(x, (1, 1, 1, 1))
    rows = []
    for first_row, kernel in enumerate((even, odd)):
        a, b, c = kernel.unbind(3)
        kernels = torch.stack([a, b + c], dim=3), torch.stack([a + b, c], dim=3)
        parts = [
            _conv2d(x[:, :, first_row : x.shape[2] - 1 + first_row, left : x.shape[3] - 1 + left], kernel, conv.bias)
            for left, kernel in enumerate(kernels)
        ]
        rows.append(torch.stack([part.permute(0, 2, 3, 1) for part in parts], dim=3))  # [N,H,W,2,C]
    large = torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2)
    return large.permute(0, 3, 1, 2).contiguous(memory_format=layout)


class _GroupNorm(Function):
    """y = a x + b with a, b [N,C]; sums are float32. Forward and backward process a few images at a time.

    torch's backward kernel is ten times slower.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        n, c, height, width = x.shape
        flat = x.permute(0, 2, 3, 1).reshape(n, height * width, c)  # a view where x is channels_last
        count = height * width * c // groups
        mean, rstd = torch.empty_like(scale), torch.empty_like(scale)
        y = torch.empty_like(flat)
        result = torch.empty_like(flat) if silu else y
        for part in _parts(n, flat.element_size() * height * width * c):
            values = flat[part].to(torch.float32, copy=True)
            m = _group_sums(values.sum(1), groups) / count
            square = _group_sums(values.mul_(values).sum(1), groups) / count
            r = ((square - m * m).clamp(min=0) + eps).rsqrt()  # both [n,groups]
            m, r = _per_channel(m, c), _per_channel(r, c)
            a = r * scale[part]
            b = (shift[part] - m * a).to(x.dtype)
            torch.addcmul(b[:, None], flat[part], a.to(x.dtype)[:, None], out=y[part])
            if silu:
                torch.ops.aten.silu.out(y[part], out=result[part])
            mean[part], rstd[part] = m, r
        ctx.save_for_backward(flat, y if silu else None, scale, mean, rstd)
        ctx.shape, ctx.groups, ctx.silu = x.shape, groups, silu
        return _image(result, x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, y, scale, mean, rstd = ctx.saved_tensors
        n, c, height, width = ctx.shape
        gradient = gradient.permute(0, 2, 3, 1).reshape(n, height * width, c)
        count = height * width * c // ctx.groups
        dx, d_scale, d_shift = torch.empty_like(flat), torch.empty_like(scale), torch.empty_like(scale)
        for part in _parts(n, flat.element_size() * height * width * c):
            x, m, r, s = flat[part], mean[part], rstd[part], scale[part]
            dy = torch.ops.aten.silu_backward(gradient[part], y[part]) if ctx.silu else gradient[part]
            values = dy.to(torch.float32, copy=True)
            db = values.sum(1)
            da = (values.mul_(x).sum(1) - m * db) * r  # sum of dy x_hat
            mean_dy = _per_channel(_group_sums(db * s, ctx.groups) / count, c)
            mean_dy_x_hat = _per_channel(_group_sums(da * s, ctx.groups) / count, c)
            # dx = rstd (scale dy - mean_dy - x_hat mean_dy_x_hat), as a dy + b x + c.
            b = -mean_dy_x_hat * r * r
            rest = (-mean_dy * r - b * m).to(dy.dtype)
            torch.addcmul(rest[:, None], x, b.to(dy.dtype)[:, None], out=dx[part])
            dx[part].addcmul_(dy, (r * s).to(dy.dtype)[:, None])
            d_scale[part], d_shift[part] = da, db
        return _image(dx, ctx.shape), d_scale, d_shift, None, None, None


def _group_sums(per_channel: Tensor, groups: int) -> Tensor:
    """Sum over the channels of each group: [N,C] -> [N,groups]."""
    return per_channel.unflatten(1, (groups, -1)).sum(2)


def _per_channel(per_group: Tensor, channels: int) -> Tensor:
    """Repeat each group's value for its channels: [N,groups] -> [N,C]."""
    return per_group.repeat_interleave(channels // per_group.shape[1], dim=1)


def _image(flat: Tensor, shape: torch.Size) -> Tensor:
    """Return [N,H*W,C] as [N,C,H,W], channels_last."""
    n, c, height, width = shape
    return flat.view(n, height, width, c).permute(0, 3, 1, 2)


class _Attention(Function):
    """Two matrix products and a softmax, in parts that fit the cache; twice as fast as torch's fused kernel in bf16."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        ctx.save_for_backward(q, k, v)
        h = torch.empty_like(q)
        for part, (p,) in _with_scores(q, 1):
            torch.bmm(_weights(q[part], k[part], out=p), v[part], out=h[part])
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        q, k, v = ctx.saved_tensors
        gradient = gradient.contiguous()
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for part, (p, dp) in _with_scores(q, 2):
            _weights(q[part], k[part], out=p)
            torch.bmm(p.transpose(1, 2), gradient[part], out=dv[part])
            torch.bmm(gradient[part], v[part].transpose(1, 2), out=dp)
            ds = torch._softmax_backward_data(dp, p, -1, p.dtype, grad_input=dp)
            torch.bmm(ds, k[part], out=dq[part])
            torch.bmm(ds.transpose(1, 2), q[part], out=dk[part])
        return dq * q.shape[-1] ** -0.5, dk, dv


def _weights(q: Tensor, k: Tensor, *, out: Tensor) -> Tensor:
    torch.bmm(q, k.transpose(1, 2), out=out)
    return torch.softmax(out, dim=-1, out=out)


def _with_scores(q: Tensor, n: int) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield the parts of q [B,L,d], each with n tensors [b,L,L] to write to; they share their memory."""
    length = q.shape[1]
    parts = _parts(len(q), q.element_size() * length**2)
    scores = [q.new_empty(parts[0].stop if parts else 0, length, length) for _ in range(n)]
    for part in parts:
        yield part, [s[: part.stop - part.start] for s in scores]


def _parts(n: int, bytes_each: int) -> list[slice]:
    """Return slices of n items of `bytes_each`, each of about _CACHE_BYTES."""
    step = max(1, _CACHE_BYTES // max(1, bytes_each))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]
