"""The U-Net of Dhariwal and Nichol 2021 ("ADM") and, by its parameters, that of Ho et al. 2020."""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddpm.networks.blocks import (
    CrossAttention,
    Downsample,
    Norm,
    ResidualBlock,
    SelfAttention,
    Stage,
    Text,
    Upsample,
    group_norm,
    normalised,
    timestep_embedding,
    timestep_frequencies,
    zero,
)
from ddpm.networks.conditioned import ConditionedNetwork
from ddpm.networks.kernels import conv, linear
from ddpm.networks.settings import CONVENTION, Convention
from ddpm.networks.settings import Text as TextSettings
from ddpm.networks.text_encoder import TextEncoder, is_text_of

AUGMENTATION = "augmentation.weight"
"""Name of the layer [c, K] of the numbers that describe how training images were changed."""
BIAS = "time.2.bias"
"""Name of the bias [c] that is added to the embedding of every sample, as a row of LABELS is."""
LABELS = "label.weight"
"""Name of the class embedding [classes + 1, c]: one row per class, and the last for samples without a label."""


class UNet(ConditionedNetwork):
    """Predict from (x_t [N,C,H,W], t [N], condition [N,...] or None): [N,C,H,W], or `out_channels` channels for C.

    H and W may have any size: the input is padded to a multiple of the total downsampling, and the output is cropped.
    `patch` x `patch` pixels become the channels of one position (Hoogeboom et al. 2023, Sec. 3.3).
    Labels are 0..classes-1. The last row of the embedding `label` is for samples without a label.
    `attention` lists the resolutions with self-attention, in positions, for images of `size` pixels.
    With `text` the condition is not labels but the tokens of captions [N,L] (see `TextEncoder`), with tokens below
    `vocabulary`: wherever a block has self-attention, and in the middle, it attends to them, too, and their mean is
    added to the embedding of t. A sample without a caption has the tokens of an empty text.
    With `picture` the condition is not labels but this number of planes [N,picture,H,W], which are joined to the input
    (Saharia et al. 2021, SR3, Sec. 2). A sample without a picture has zeros.
    `augmentation` is the length K of the vectors [N,K] that describe how training images were changed, or 0. A layer
    without bias adds them to the embedding of t, so zeros and None are the same.
    `embedding` is scale_shift or add (see `ResidualBlock`); `resample` is residual (by a residual block) or conv
    (`Downsample`, `Upsample`); `groups` is that of group normalisation, see `group_norm`.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        classes: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        head_channels: int,
        dropout: float,
        embedding: str = "scale_shift",
        resample: str = "residual",
        groups: int | None = None,
        patch: int = 1,
        out_channels: int | None = None,
        augmentation: int = 0,
        convention: Convention = CONVENTION,
        text: TextSettings | None = None,
        vocabulary: int = 0,
        picture: int = 0,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.width = width
        self.patch = patch
        self.picture = picture
        self.factor = patch * 2 ** (len(multipliers) - 1)
        self.frequency_shift = convention.frequency_shift
        c_emb = 4 * width
        self.time = nn.Sequential(nn.Linear(width, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb))
        self.label = nn.Embedding(classes + 1, c_emb) if classes else None

        norm = partial(group_norm, groups=groups, eps=convention.norm_eps)

        def residual(c_in: int, c_out: int, resample: str = "none") -> ResidualBlock:
            return ResidualBlock(
                c_in, c_out, c_emb=c_emb, dropout=dropout, embedding=embedding, norm=norm, resample=resample
            )

        def attend(c: int, norm: Norm = norm) -> SelfAttention:
            return SelfAttention(c, head_channels=head_channels, norm=norm)

        def cross(c: int) -> CrossAttention | None:
            heads = max(1, c // head_channels)
            return None if text is None else CrossAttention(c, text.width, heads=heads, norm=norm)

        def stage(c_in: int, c_out: int, resolution: int) -> Stage:
            if resolution not in attention:
                return Stage(residual(c_in, c_out), None)
            return Stage(residual(c_in, c_out), attend(c_out), cross(c_out))

        def down(c: int) -> Stage:
            strided = resample == "conv"
            return Stage(Downsample(c, padding=convention.strided_padding) if strided else residual(c, c, "down"), None)

        def up(c: int) -> Stage:
            return Stage(Upsample(c) if resample == "conv" else residual(c, c, "up"), None)

        resolutions = [padded(size, self.factor) // patch >> level for level in range(len(multipliers))]

        self.conv_in = nn.Conv2d((channels + picture) * patch**2, width, 3, padding=1)
        c = width
        skips = [c]
        self.down = nn.ModuleList()
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                self.down.append(down(c))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(stage(c, multiplier * width, resolutions[level]))
                c = multiplier * width
                skips.append(c)

        middle = {
            "normalised": lambda: attend(c),
            "plain": lambda: attend(c, norm=nn.Identity),
            "none": lambda: None,
        }[convention.middle_attention]()
        self.middle = nn.ModuleList([Stage(residual(c, c), middle, cross(c)), Stage(residual(c, c), None)])

        # One more block per level than on the way down, since every output of the way down goes into one block here.
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for _ in range(blocks + 1):
                self.up.append(stage(c + skips.pop(), multiplier * width, resolutions[level]))
                c = multiplier * width
            if level > 0:
                self.up.append(up(c))
        assert not skips

        self.norm_out = norm(c)
        self.conv_out = zero(nn.Conv2d(c, (out_channels or channels) * patch**2, 3, padding=1))
        # Made last, so that all other weights start as they do without it.
        self.augmentation = zero(nn.Linear(augmentation, width, bias=False)) if augmentation else None
        self.text = None
        if text is not None:
            encoder = {"length": text.length, "layers": text.layers, "head_channels": text.head_channels}
            self.text = TextEncoder(vocabulary=vocabulary, width=text.width, **encoder)
            self.text_mean = nn.Linear(text.width, c_emb)

    def hide(self, condition: Tensor, where: Tensor) -> Tensor:
        if self.picture:
            return condition.masked_fill(where[:, None, None, None], 0)
        if self.text is None:
            return condition.masked_fill(where, self.classes)
        return torch.where(where[:, None], self.text.no_text(1), condition)

    def read_condition(self, condition: Tensor | Text | None, n: int) -> Tensor | Text | None:
        if self.text is None or isinstance(condition, Text):
            return condition
        tokens = self.text.no_text(n) if condition is None else condition
        states, mean = self.text(tokens)
        return Text(linear(mean, self.text_mean), states, is_text_of(tokens))

    def forward(
        self, x: Tensor, t: Tensor, condition: Tensor | Text | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        height, width = x.shape[-2:]
        if self.picture:
            none = x.new_zeros(len(x), self.picture, height, width)
            x = torch.cat([x, condition.to(x.dtype) if isinstance(condition, Tensor) else none], dim=1)
        x = F.pad(x, (0, -width % self.factor, 0, -height % self.factor))

        frequencies = timestep_frequencies(self.width, shift=self.frequency_shift, device=t.device)
        first, silu, second = self.time
        emb = timestep_embedding(t, frequencies)
        if augmentation is not None:
            assert self.augmentation is not None
            emb = emb + self.augmentation(augmentation)
        emb = linear(silu(linear(emb, first)), second)
        if self.label is not None:
            no_label = torch.full(t.shape, self.classes, device=t.device, dtype=torch.long)
            emb = emb + self.label(no_label if condition is None else condition)
        text = self.read_condition(condition, len(x)) if self.text is not None else None
        if isinstance(text, Text):
            emb = emb + text.emb
        emb = F.silu(emb)

        h = conv(F.pixel_unshuffle(x, self.patch), self.conv_in)
        skips = [h]
        for stage in self.down:
            h = stage(h, emb, text)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, emb, text)
        for stage in self.up:
            if stage.takes_skip:
                h = torch.cat([h, skips.pop()], dim=1)
            h = stage(h, emb, text)
        h = conv(normalised(h, self.norm_out, silu=True), self.conv_out)
        return F.pixel_shuffle(h, self.patch)[..., :height, :width]


def padded(size: int, factor: int) -> int:
    """Return the smallest multiple of `factor` that is at least `size`."""
    return math.ceil(size / factor) * factor
