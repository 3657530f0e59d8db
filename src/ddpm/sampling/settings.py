"""Settings for sampling: section `sample` of params.yaml, with the options of every sampler under its name."""

from dataclasses import asdict
from typing import Any, Literal

from ddpm.diffusion.settings import MAX_T, Schedule
from ddpm.sampling.catalogue import DIRECT, GRIDS, SAMPLERS
from ddpm.settings import require, require_at_least, require_named, require_positive, require_share, section


@section
class Ddpm:
    """Options of `samplers.ddpm`."""

    variance: Literal["small", "large", "learned"]
    """Variance of its steps; learned needs objective.learned_variance."""


@section
class Ddim:
    """Options of `samplers.ddim`."""

    eta: float
    """0 is deterministic, 1 as random as ddpm."""

    def __post_init__(self) -> None:
        require_share(self, "eta")


@section
class Heun:
    """Options of `solvers.heun`."""

    churn: float
    """S_churn of Karras et al. 2022: the amount of noise that is added again in each step; 0 is deterministic."""
    churn_range: tuple[float, float | None]
    """S_min and S_max: the noise levels (sigma / alpha) with churn; null: no upper end."""
    churn_noise: float
    """S_noise: the factor of the standard deviation of that noise."""

    def __post_init__(self) -> None:
        require_at_least(0, self, "churn")
        require_positive(self, "churn_noise")
        _require_interval(self, "churn_range", levels="from low to high")
        require(
            self.churn > 0 or self.churn_range == (0, None),
            f"churn_range is {list(self.churn_range)}, which nothing reads where churn is 0; "
            "set churn_range to [0, null] or churn above 0",
        )


@section
class Unipc:
    """Options of `solvers.unipc`."""

    order: int
    """Order of the predictor; the corrector raises it by one."""

    def __post_init__(self) -> None:
        require(1 <= self.order <= 3, f"order is {self.order}, expected 1, 2 or 3")


@section
class Langevin:
    """Options of both samplers in module `langevin`."""

    steps: int
    """Langevin steps at every noise level."""
    snr: float
    """r of these steps, which are 2 r^2 sigma^2 at noise sigma: norm of the drift over norm of the noise, if the score
    is that of noise alone. Stable below 1."""

    def __post_init__(self) -> None:
        require_positive(self, "steps", "snr")


@section
class Karras:
    """Options of `grids.karras`."""

    rho: float
    """1: even in the noise level; 7: dense near the image."""

    def __post_init__(self) -> None:
        require_positive(self, "rho")


@section
class Drawing:
    """Sampler, time grid and guidance.

    Options of a sampler or grid that is not chosen apply to requests that choose it.
    """

    sampler: str
    """The method that turns noise into images."""
    steps: int
    """Evaluations of the guided model per image, at most schedule.T. Each is one of the network, and two where guidance
    is on."""
    ddpm: Ddpm
    ddim: Ddim
    heun: Heun
    unipc: Unipc
    langevin: Langevin
    predictor_corrector: Langevin
    time_grid: str
    """The times of the evaluations."""
    karras: Karras
    guidance: float
    """Guidance scale: 1 is the conditional model itself; above 1, images are clearer and vary less."""
    guide: str | None
    """A weaker model of the same data to guide against; null: the model itself without a label. In params.yaml it is a
    file in data/guides, in a model file the sha256 of the guide inside the file."""
    guidance_interval: tuple[float, float | None]
    """Noise levels (sigma / alpha) with guidance: above the first number, up to the second; null: no upper end."""
    guidance_rescale: float
    """Share of the contrast added by guidance that is removed again, in [0, 1]."""
    threshold: float | None
    """Dynamic thresholding at this quantile of the pixels; null: clipping."""
    base: str | None = None
    """A model that draws the small pictures which this one, trained for super-resolution, enlarges: a cascade (Ho et
    al. 2022). In params.yaml it is a file in data/guides, or a registered version as MLflow names it
    (models:/NAME@champion or models:/NAME/3); in a model file the sha256 of the base inside the file."""
    picture_noise: float = 0.0
    """Standard deviation, in grey levels, of the noise that is added to the picture of condition image. The network
    gets this number as an input (Ho et al. 2022, Sec. 4.2). For denoise no noise is added."""

    def __post_init__(self) -> None:
        for name, known in (("sampler", SAMPLERS), ("time_grid", GRIDS)):
            value = getattr(self, name)
            require(value in known or self._is_direct(name), f"{name} is {value!r}, expected one of {', '.join(known)}")
        require_positive(self, "steps")
        require_at_least(0, self, "guidance")
        require_named(self, "guide", "base")
        require_at_least(0, self, "picture_noise")
        _require_interval(self, "guidance_interval", levels="above low and up to high")
        require_share(self, "guidance_rescale")
        require(
            self.threshold is None or 0 < self.threshold <= 1,
            f"threshold is {self.threshold}, expected a share above 0 and at most 1, or null",
        )
        require(
            self.sampler != "langevin" or self.steps > self.langevin.steps,
            f"steps is {self.steps}, but langevin takes langevin.steps ({self.langevin.steps}) at every noise level "
            "and one at the end; set steps to more",
        )

    def _is_direct(self, name: str) -> bool:
        """Return whether `name` is the sampler and it is that of a model that draws in one evaluation."""
        return name == "sampler" and self.sampler == DIRECT

    def require_fits(self, schedule: Schedule, *, called: str) -> None:
        """Raise ValueError for more steps than the schedule has, also of a sampler that is not chosen, and for a
        sampler that cannot begin at its x_T; `called` precedes the settings in the message: "sample.", or nothing."""
        require(
            not (schedule.ends_in_noise and self.sampler == "langevin"),
            f"{called}sampler is langevin, which divides by the share of the image in x_t, but with the schedule's "
            f"{schedule.ending} this share is 0 at x_T; choose another sampler",
        )
        most = schedule.T if schedule.time == "discrete" else MAX_T
        for key, steps in {
            "steps": self.steps,
            "langevin.steps": self.langevin.steps,
            "predictor_corrector.steps": self.predictor_corrector.steps,
        }.items():
            named = f"schedule.T ({most})" if schedule.time == "discrete" else most
            require(steps <= most, f"{called}{key} is {steps}, expected at most {named}")

    def options(self, name: str) -> dict[str, Any]:
        """Return the keyword arguments of the sampler or grid of this name."""
        own = getattr(self, name, None)
        return {} if own is None else asdict(own)


@section
class Sample(Drawing):
    """How images are generated for the grid and the evaluation."""

    images: int | Literal["auto"]
    """Number of images; auto: the number of training images, at most 10000."""
    grid: int
    """Number of images in the picture."""
    seed: int
    """Decides the noise from which every image is made."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.sampler != DIRECT,
            f"sampler is {DIRECT}, which models of other methods than diffusion have by themselves; expected one of "
            f"{', '.join(SAMPLERS)}",
        )
        require_positive(self, "grid")
        require_at_least(0, self, "seed")
        require(self.images == "auto" or self.images > 0, f"images is {self.images}, expected auto or above 0")


def _require_interval(section: Any, name: str, *, levels: str) -> None:
    low, high = getattr(section, name)
    require(
        low >= 0 and (high is None or low < high),
        f"{name} is {[low, high]}, expected [low, high], levels {levels}, with 0 <= low < high, or null for no end",
    )
