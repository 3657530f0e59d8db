"""The forward process and the objective: sections `schedule` and `objective` of params.yaml."""

from typing import Literal

from ddpm.settings import require, require_positive, section

MAX_T = 1_000_000
"""Largest number of steps; a discrete schedule keeps all of them in memory."""


@section
class Schedule:
    """The forward process, which turns an image into noise."""

    name: Literal["linear", "cosine", "sigmoid", "variance_exploding", "linear_path"]
    """linear, cosine, sigmoid: alpha_bar of a variance-preserving process; linear_path: that of flow matching."""
    T: int
    """Number of steps of the forward process. In continuous time, also for linear_path, it is the largest time and only
    sets the unit of time; variance_exploding ignores it."""
    time: Literal["discrete", "continuous"]
    """discrete: training draws the steps 1..T; continuous: any real time up to T."""
    shift: float
    """The SNR is divided by its square. For images of d x d pixels and a schedule made for 64 x 64: d/64. With
    train.time_sampling log_normal, the noise levels of the training do not depend on it: it changes only the times that
    the network reads and the time grids of sampling. For the shifted times of Esser et al. 2024 on the linear path, set
    train.log_normal to [ln(shift), 1]."""
    zero_terminal_snr: bool
    """Rescale the schedule so that x_T is pure noise."""
    sigma_min: float
    """variance_exploding only: least standard deviation of the noise in training, for images in [-1, 1]."""
    sigma_max: float
    """variance_exploding only: largest standard deviation of the noise, at which sampling starts."""

    @property
    def ends_in_noise(self) -> bool:
        """Whether x_T is pure noise, with no trace of the image."""
        return self.name == "linear_path" or self.zero_terminal_snr

    @property
    def ending(self) -> str:
        """The values that `ends_in_noise` reads, as words."""
        return f"name {self.name} and zero_terminal_snr {'true' if self.zero_terminal_snr else 'false'}"

    def __post_init__(self) -> None:
        require(2 <= self.T <= MAX_T, f"T is {self.T}, expected 2 to {MAX_T} steps")
        require_positive(self, "shift", "sigma_min")
        require(
            self.sigma_min < self.sigma_max,
            f"sigma_min is {self.sigma_min}, expected below sigma_max ({self.sigma_max})",
        )
        if self.name in ("variance_exploding", "linear_path"):
            require(
                self.time == "continuous",
                f"name is {self.name}, whose time is continuous; set time to continuous",
            )
        if self.name == "linear_path":
            require(
                not self.zero_terminal_snr,
                "name is linear_path, which ends in pure noise already; set zero_terminal_snr to false",
            )
        if self.name == "variance_exploding":
            require(
                self.shift == 1 and not self.zero_terminal_snr,
                "name is variance_exploding, which has neither shift nor zero_terminal_snr; set them to 1 and false "
                "and choose sigma_max instead",
            )


Target = Literal["eps", "x_0", "v", "edm", "velocity"]
"""What the network predicts: a key of `objectives.TARGETS`."""
Weight = Literal["simple", "snr", "min_snr", "p2", "edm", "flow"]
"""A key of `objectives.WEIGHTS`."""


@section
class Objective:
    """What the network predicts and how the loss is weighted over noise levels."""

    target: Target
    """What the network predicts: the noise (eps), the image (x_0), v = alpha eps - sigma x_0, the velocity eps - x_0 of
    flow matching, or the target of EDM."""
    weight: Weight
    """Weight of the squared error of x_0; simple: the error of the target itself has the same weight at all levels;
    flow: the error of the velocity eps - x_0 has, as in flow matching."""
    min_snr_gamma: float
    """The largest SNR of weight min_snr: gamma of Hang et al. 2023, Eq. 8."""
    p2_gamma: float
    """The exponent of weight p2: gamma of Choi et al. 2022, Eq. 8."""
    sigma_data: float
    """Standard deviation of the pixels in [-1, 1]; for target and weight edm."""
    learned_variance: bool
    """The network also predicts the variance of every step, per pixel; the sampler ddpm uses it."""
    vlb_weight: float
    """Weight of the variational bound, which trains the variance: lambda of Nichol and Dhariwal 2021, Eq. 16."""
    bounded: bool
    """Clip the estimate of x_0 to [-1, 1] in training as in sampling: for a black or white pixel, an estimate beyond
    black or white has no loss. Useful for images with many such pixels."""

    def __post_init__(self) -> None:
        require_positive(self, "min_snr_gamma", "p2_gamma", "sigma_data", "vlb_weight")
