"""What sampling may be told, and all of it together: how a model draws."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ddpm.settings import require, require_at_least, require_named, require_positive, require_share, section


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


SamplerName = Literal[
    "ddpm",
    "ddim",
    "heun",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_2m_sde",
    "unipc",
    "langevin",
    "predictor_corrector",
]
"""The keys of `catalogue.SAMPLERS`, named here because that imports torch."""


@section
class Sample:
    """How images are generated for the grid and the evaluation."""

    sampler: SamplerName
    steps: int
    """Network evaluations per image, at most schedule.T; guidance doubles their cost, not their number."""
    time_grid: Literal["uniform", "quadratic", "karras", "log_snr", "optimized"]
    """At which noise levels the evaluations are."""
    rho: float
    """time_grid karras only: 1 is even in the noise level, 7 dense near the image."""
    variance: Literal["small", "large", "learned"]
    """ddpm only: of its steps; learned needs objective.learned_variance."""
    eta: float
    """ddim only: 0 is deterministic, 1 as random as ddpm."""
    order: Literal[1, 2, 3]
    """unipc only."""
    churn: float
    """heun only: S_churn, 0 is deterministic."""
    churn_range: tuple[float, float | None]
    """heun only: S_min and S_max, the noise levels (sigma / alpha) with churn; null: without an end."""
    churn_noise: float
    """heun only: S_noise."""
    langevin_steps: int
    """langevin and predictor_corrector only: Langevin steps at every noise level."""
    langevin_snr: float
    """r of these steps, which are 2 r^2 sigma^2 at noise sigma: where the score is that of noise alone, the norm of the
    drift over the norm of the noise. Stable below 1."""
    guidance: float
    """1 is the conditional model itself."""
    guide: str | None
    """A file in data/guides of a weaker model of the same data to guide against; null: the model itself, unlabelled."""
    guidance_interval: tuple[float, float | None]
    """Noise levels (sigma / alpha) with guidance; null: without an end."""
    guidance_rescale: float
    """Share of the contrast that guidance adds which is taken back."""
    threshold: float | None
    """Dynamic thresholding at this quantile of the pixels; null: clipping."""
    images: int | Literal["auto"]
    """How many; auto: as many as there are training images, at most 10000."""
    grid: int
    """Images on the picture."""
    seed: int

    def __post_init__(self) -> None:
        require_positive(self, "steps", "grid")
        require_at_least(0, self, "seed")
        require_named(self, "guide")
        require(self.images == "auto" or self.images > 0, f"images is {self.images}, expected auto or above 0")
        require(0 <= self.eta <= 1, f"eta is {self.eta}, expected 0 to 1")
        require(self.guidance >= 0, f"guidance is {self.guidance}, expected 0 or above")
        require_positive(self, "rho", "churn_noise", "langevin_steps", "langevin_snr")
        require_share(self, "guidance_rescale")
        require(self.churn >= 0, f"churn is {self.churn}, expected 0 or above")
        for name in ("churn_range", "guidance_interval"):
            low, high = getattr(self, name)
            require(
                low >= 0 and (high is None or low < high),
                f"{name} is {[low, high]}, expected [low, high] with 0 <= low < high, or null for no end",
            )
        require(
            self.threshold is None or 0 < self.threshold <= 1,
            f"threshold is {self.threshold}, expected a share above 0 and at most 1, or null",
        )
        require(
            self.sampler != "langevin" or self.steps > self.langevin_steps,
            f"steps is {self.steps}, but langevin takes langevin_steps ({self.langevin_steps}) at every noise level "
            "and one at the end; set steps to more",
        )
