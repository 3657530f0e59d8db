"""What sampling may be told, and all of it together: how a model draws."""

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be told beyond sampler, steps, eta and guidance.

    The defaults are neutral: they are how images were made before there was such a setting.
    """

    time_grid: str = "uniform"
    """A key of `grids.GRIDS`."""
    rho: float = 7.0
    """Of the grid `karras`."""
    variance: str = "small"
    """ddpm: small, large or learned."""
    order: int = 2
    """unipc."""
    churn: float = 0.0
    """heun: S_churn."""
    churn_range: tuple[float, float | None] = (0.0, None)
    """heun: S_min and S_max, in sigma / alpha."""
    churn_noise: float = 1.0
    """heun: S_noise."""
    langevin_steps: int = 1
    """langevin and predictor_corrector: Langevin steps at every noise level."""
    langevin_snr: float = 0.16
    """r of these steps, which are 2 r^2 sigma^2 at noise sigma."""
    guide: str | None = None
    """A weaker model to guide against (autoguidance), in place of the model without its label: the sha256 of the one
    that the model brings along, or a file."""
    guidance_interval: tuple[float, float | None] = (0.0, None)
    """Noise levels sigma / alpha with guidance."""
    guidance_rescale: float = 0.0
    """Share of the standard deviation that guidance adds which is taken back."""
    threshold: float | None = None
    """Dynamic thresholding at this quantile; None clips to [-1, 1]."""

    def __post_init__(self) -> None:
        for name in ("churn_range", "guidance_interval"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """All that decides how a model draws, but for seed, labels and number: what it was measured with, it is used with.

    A model file may carry one; the guide in it then is the sha256 of a model in the same file.
    """

    sampler: str
    """A key of `catalogue.SAMPLERS`."""
    steps: int
    """Evaluations of the denoiser per image."""
    eta: float = 0.0
    """ddim."""
    guidance: float = 1.0
    """1 is the conditional model itself."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """For `runtime.choose_precision`."""

    def told(self) -> dict[str, Any]:
        """What a sampler is told; the precision is left, since a device decides what auto means."""
        return {name: value for name, value in asdict(self).items() if name in _TOLD}


_TOLD = frozenset(Recipe.__dataclass_fields__) - {"precision"}
