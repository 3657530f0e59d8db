"""The settings of the network: section `network` of params.yaml."""

from typing import Literal

from ddpm.settings import require, require_at_least, require_positive, require_share, section


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
