"""The network: `network` in params.yaml."""

from typing import Literal

from ddpm.settings import require, require_positive, require_share, section


@section
class Network:
    """The U-Net."""

    patch: int
    """So many pixels, high and wide, are the channels of one position: 2 is a quarter of the work, for images whose
    single pixels say little."""
    width: int
    """Channels at the highest resolution."""
    multipliers: tuple[int, ...]
    """Channels per resolution, as multiples of width."""
    blocks: int
    """Residual blocks per resolution."""
    attention: tuple[int, ...]
    """Resolutions, in positions (pixels where patch is 1), with self-attention."""
    head_channels: int
    dropout: float
    label_dropout: float
    """Share of labels hidden in training; guidance needs it above 0."""
    embedding: Literal["scale_shift", "add"]
    """What time and class do in a block: scale and shift the second norm's output (Dhariwal and Nichol 2021), or are
    added before it (Ho et al. 2020)."""
    resample: Literal["residual", "conv"]
    """Between resolutions: a residual block (Dhariwal and Nichol 2021), or one convolution (Ho et al. 2020)."""
    groups: int | None
    """Of group normalisation; null: up to 32 of at least four channels. A model that shall be exported to diffusers
    needs a number, or a width that is a multiple of 128."""

    def __post_init__(self) -> None:
        require_positive(self, "patch", "width", "blocks", "head_channels")
        require_share(self, "dropout", "label_dropout")
        require(self.dropout < 1, f"dropout is {self.dropout}, which drops everything; expected below 1")
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
            f"head_channels is {self.head_channels}, of which {channels} channels at the lowest resolution make "
            f"{heads} heads that are not alike; choose a divisor",
        )
        if self.groups is not None:
            require_positive(self, "groups")
            require(
                self.width % self.groups == 0, f"groups is {self.groups}, expected a divisor of width ({self.width})"
            )
