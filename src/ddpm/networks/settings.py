"""The settings of the network: section `network` of params.yaml."""

import math
from functools import cached_property
from typing import Literal

from ddpm.settings import require, require_at_least, require_positive, require_share, section

Method = Literal["diffusion", "vae", "gan"]
"""Kind of model that generates images."""
Kind = Literal[Method, "autoencoder"]
"""Kind of model in a file; an autoencoder brings images to latents, in which a diffusion model is trained, and back."""
Domain = Literal["pixels", "autoencoder"]
"""What diffuses: the pixels of images, or their latents by an autoencoder."""
Condition = Literal["none", "label", "text", "image"]
"""What a model is conditioned on."""
PAD, START, FIRST = 0, 1, 2
"""Tokens: fills a row after its text; begins every text; the first of the symbols."""
BYTES = tuple(map(chr, sorted({*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)})))
"""The letters that byte-level tokenizers write for the 256 bytes.  Radford et al. 2019 (GPT-2), published code."""
MAX_TOKENS = 2**16


@section
class Vae:
    """The variational autoencoder of method vae.  Kingma and Welling 2014, with one learned variance of the decoder as
    in Rybkin et al. 2021."""

    width: int
    """Channels at the highest resolution; they double at each lower one, up to four times as many."""
    blocks: int
    """Residual blocks per resolution, in encoder and decoder."""
    latent_channels: int
    """Numbers of the latent z, at each position if latent_size is above 1."""
    latent_size: int
    """Height and width of z. 1: a vector, from which images are drawn best; larger: a map, which keeps where things
    are."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks", "latent_channels", "latent_size")
        require(self.width % 8 == 0, f"width is {self.width}, expected a multiple of 8")


@section
class Gan:
    """The generator and the discriminator of method gan: non-saturating loss (Goodfellow et al. 2014) with the penalty
    R1 (Mescheder et al. 2018)."""

    width: int
    """Channels of both at the highest resolution; they double at each lower one, up to four times as many."""
    latent: int
    """Numbers of the latent z."""
    r1_gamma: float
    """Factor gamma of R1, the squared gradient of the discriminator at real images, as gamma / 2."""
    beta1: float
    """Adam's first decay rate in training; 0: no momentum, as Mescheder et al. and Karras et al. 2019 use."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "latent")
        require(self.width % 8 == 0, f"width is {self.width}, expected a multiple of 8")
        require_at_least(0, self, "r1_gamma")
        require(0 <= self.beta1 < 1, f"beta1 is {self.beta1}, expected at least 0 and below 1")


@section
class Convention:
    """Details in which published U-Nets differ and that nobody tunes; imported weights come with their own values."""

    norm_eps: float
    """Constant that group normalisation adds to the variance."""
    frequency_shift: Literal[0, 1]
    """See `blocks.timestep_frequencies`."""
    strided_padding: Literal["both", "after"]
    """Padding of `blocks.Downsample`."""
    middle_attention: Literal["normalised", "plain", "none"]
    """Attention between the two middle blocks; plain: without group normalisation."""

    def __post_init__(self) -> None:
        require_at_least(0, self, "norm_eps")


CONVENTION = Convention(norm_eps=1e-5, frequency_shift=0, strided_padding="both", middle_attention="normalised")
"""The details of the networks that are trained here."""


@section
class Network:
    """The U-Net."""

    patch: int
    """Patch size: p x p pixels become the channels of one position. 2 takes a quarter of the work and suits images with
    little detail in single pixels."""
    width: int
    """Channels at the highest resolution."""
    multipliers: tuple[int, ...]
    """Channels per resolution, as multiples of width."""
    blocks: int
    """Residual blocks per resolution."""
    attention: tuple[int, ...]
    """Resolutions with self-attention, in positions (pixels if patch is 1)."""
    head_channels: int
    """Channels of each attention head."""
    dropout: float
    """Share of the activations in each residual block that are set to zero in training."""
    embedding: Literal["scale_shift", "add"]
    """How a block uses time and class. scale_shift: they scale and shift the output of the second normalisation
    (Dhariwal and Nichol 2021). add: they are added to its input (Ho et al. 2020)."""
    resample: Literal["residual", "conv"]
    """Change of resolution by a residual block (Dhariwal and Nichol 2021) or by one convolution (Ho et al. 2020)."""
    groups: int | None
    """Groups of group normalisation; null: up to 32 groups of at least four channels. Export to diffusers needs a
    number, or a width that is a multiple of 128."""

    def __post_init__(self) -> None:
        require_positive(self, "patch", "width", "blocks", "head_channels")
        require_share(self, "dropout")
        require(self.dropout < 1, f"dropout is {self.dropout}, expected a value below 1, since 1 drops everything")
        require(len(self.multipliers) > 0, "multipliers is empty, expected one number per resolution")
        for name in ("multipliers", "attention"):
            values = list(getattr(self, name))
            require(all(value >= 1 for value in values), f"{name} is {values}, expected whole numbers of 1 or above")
        require(len(self.multipliers) <= 12, f"multipliers has {len(self.multipliers)} resolutions, expected up to 12")
        require(self.width % 8 == 0, f"width is {self.width}, expected a multiple of 8")
        channels = self.width * self.multipliers[-1]
        heads = max(1, channels // self.head_channels)
        require(
            channels % heads == 0,
            f"head_channels is {self.head_channels}, which divides the {channels} channels at the lowest resolution "
            f"into {heads} heads of unequal size; expected a divisor of {channels}",
        )
        if self.groups is not None:
            require_positive(self, "groups")
            require(
                self.width % self.groups == 0, f"groups is {self.groups}, expected a divisor of width ({self.width})"
            )


@section
class Text:
    """How captions become a condition: a transformer (Vaswani et al. 2017) over the tokens of a caption, trained with
    the U-Net, whose blocks with attention attend to its outputs (Rombach et al. 2022, Sec. 3.3)."""

    vocabulary: int
    """Number of tokens at most. 256 are the bytes, 2 mark beginning and end; the others are learned from the training
    captions."""
    length: int
    """Number of tokens of a caption that the network reads, with the one that begins it."""
    width: int
    """Channels of the transformer."""
    layers: int
    """Layers of the transformer."""
    head_channels: int
    """Channels of each attention head."""
    examples: tuple[str, ...]
    """Captions of the pictures that are drawn during the training, and of requests without a text. []: ten captions of
    held-out images."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "layers", "head_channels")
        require(
            FIRST + len(BYTES) <= self.vocabulary <= MAX_TOKENS,
            f"vocabulary is {self.vocabulary}, expected {FIRST + len(BYTES)} to {MAX_TOKENS}",
        )
        require(2 <= self.length <= 512, f"length is {self.length}, expected 2 to 512")
        require(
            self.width % self.head_channels == 0 and self.head_channels % 8 == 0,
            f"head_channels is {self.head_channels}, expected a multiple of 8 that divides width ({self.width})",
        )
        require(len(self.examples) <= 100, f"examples has {len(self.examples)} captions, expected up to 100")
        require(all(each.strip() for each in self.examples), "examples has an empty caption; remove it")


@section
class Codec:
    """The autoencoder between images and latents, in the form of diffusers' AutoencoderKL.  Rombach et al. 2022,
    Sec. 3.1."""

    latent_channels: int
    """Numbers of a latent at each position."""
    widths: tuple[int, ...]
    """Channels per resolution, that of the images first; each next one has half of the height and width."""
    blocks: int
    """Residual blocks per resolution; the decoder has one more."""
    groups: int
    """Groups of group normalisation."""
    attention: bool
    """Self-attention between the two middle blocks of encoder and decoder."""
    quant: bool
    """A 1x1 convolution after the encoder and one before the decoder."""
    shift: float
    """Mean of the latents before they are standardised."""
    scale: float
    """Factor that standardises latents after `shift` is subtracted: 1 over their standard deviation."""

    def __post_init__(self) -> None:
        require_positive(self, "latent_channels", "blocks", "groups")
        require(1 <= len(self.widths) <= 12, f"widths has {len(self.widths)} resolutions, expected 1 to 12")
        for width in self.widths:
            require(
                width >= 1 and width % 8 == 0 and width % self.groups == 0,
                f"widths has {width}, expected multiples of 8 and of groups ({self.groups})",
            )
        require(math.isfinite(self.shift), f"shift is {self.shift}, expected a finite number")
        require(math.isfinite(self.scale) and self.scale > 0, f"scale is {self.scale}, expected a number above 0")

    @property
    def factor(self) -> int:
        """How many times lower and narrower latents are than images."""
        return 2 ** (len(self.widths) - 1)


@section
class Tokenizer:
    """Which pairs of symbols byte-pair encoding joins; see the room `text`."""

    merges: tuple[str, ...]
    """Pairs in the order in which they are joined, each as "left right"."""

    def __post_init__(self) -> None:
        known = set(BYTES)
        require(len(self.merges) <= MAX_TOKENS, f"the tokenizer has {len(self.merges)} merges, expected {MAX_TOKENS}")
        for merge in self.merges:
            parts = merge.split(" ")
            require(len(parts) == 2 and known.issuperset(parts), f"the tokenizer joins {merge!r}, expected two symbols")
            known.add("".join(parts))

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """All symbols; symbol k is token FIRST + k."""
        return tuple(dict.fromkeys([*BYTES, *(merge.replace(" ", "") for merge in self.merges)]))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return FIRST + len(self.symbols)
