"""What params.yaml may say: one closed type per section, read strictly and as a whole.

Every stage validates the whole file, and `configure`, the first one, runs whenever it changes: a typo in `promote`
stops before a night of training and not after it.
"""

import dataclasses
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

from ddpm import idle, yaml_file
from ddpm.errors import UserError
from ddpm.redaction import redacted

_T = TypeVar("_T")

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
"""The keys of `diffusion.catalogue.SAMPLERS`, named here because that imports torch."""

Precision = Literal["auto", "float32", "bf16"]

_MAX_T = 1_000_000
"""Every step of a discrete schedule is held in memory."""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _section(cls: type[_T]) -> type[_T]:
    """A frozen, keyword-only dataclass in which an unknown key is an error, and so is a number that is none."""
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


def _positive(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _require(value > 0, f"{name} is {value}, expected a number above 0")


def _at_least(least: float, section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _require(value >= least, f"{name} is {value}, expected {least:g} or above")


def _named(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _require(value is None or value.strip() != "", f"{name} is {value!r}, expected a name")


def _share(section: Any, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        _require(0 <= value <= 1, f"{name} is {value}, expected a share between 0 and 1")


@_section
class Data:
    """Where the images come from and what they become."""

    source: str
    """`digits`, `torchvision:NAME`, `folder` or `archive`."""
    path: str
    """The folder, the archive, or torchvision's root. Relative to the project; no shell reads it."""
    download: bool
    """torchvision only: fetch what is not at `path`."""
    size: int | None
    """Pixels of height and width; null takes what the data says."""
    channels: Literal[1, 3] | None
    """Grey or RGB; null takes what the data says."""
    fit: Literal["crop", "pad"]
    """How a non-square image becomes square."""
    test_fraction: float
    """Held out by a seeded draw where the source has no test split."""
    seed: int
    labels: bool
    """Class-conditional where the source has classes; false leaves them out, and folders then mean nothing."""
    max_pixels: int
    """A larger image is rejected, with that reason in the manifest."""
    max_picture_bytes: int
    """Memory that decoding one image may take, in every worker; one that would take more by its header is rejected."""
    white: int | None
    """The value of 16-bit grey that is white, 4095 where a camera of 12 bits wrote it; null takes 65535, and rejects an
    image that stays below 4096. A file that says how many bits it holds is believed."""
    archive_max_bytes: int
    """An archive that unpacks to more is refused."""
    archive_max_files: int
    store: str | None
    """Where the shards go: an fsspec URL such as s3://bucket/prefix; null keeps them beside their index."""
    shard_bytes: int
    """Largest size of one shard; a set that fits is one shard."""

    def __post_init__(self) -> None:
        known = self.source in ("digits", "folder", "archive") or (
            self.source.startswith("torchvision:") and len(self.source) > len("torchvision:")
        )
        _require(
            known,
            f"source is {self.source!r}, expected digits, folder, archive or torchvision:NAME",
        )
        _require(
            self.path != "" and "://" not in self.path and "\0" not in self.path,
            f"path is {self.path!r}, expected a folder or file of this machine (what has a URL is fetched before)",
        )
        _require(
            self.size is None or 4 <= self.size <= 4096,
            f"size is {self.size}, expected 4 to 4096 pixels or null",
        )
        _require(0 < self.test_fraction < 1, f"test_fraction is {self.test_fraction}, expected between 0 and 1")
        _positive(self, "max_pixels", "max_picture_bytes", "archive_max_bytes", "archive_max_files", "shard_bytes")
        _require(
            self.white is None or 1 <= self.white <= 65535,
            f"white is {self.white}, expected a value from 1 to 65535 or null",
        )
        _at_least(0, self, "seed")
        _named(self, "store")
        _require(
            self.store is None or redacted(self.store) == self.store,
            "store holds a credential, which params.yaml, dvc.lock and the shards' index would keep; leave it out "
            "and set what its kind of store reads of the environment (AWS_PROFILE, FSSPEC_FTP_PASSWORD, …)",
        )


@_section
class Validate:
    """The limits that Great Expectations holds the manifest to."""

    min_train_images: int
    min_test_images: int
    max_rejected_share: float
    max_test_duplicates: int
    """Images in test that also stand in train."""
    min_class_share: float
    """Smallest class, as a share of a perfectly balanced one."""
    max_upscaled_share: float
    """Images whose sides are shorter than the prepared size, as a share: enlarging them blurs them."""
    brightness: tuple[float, float]
    """Lowest and highest mean brightness of an image, in 0..255."""

    def __post_init__(self) -> None:
        _at_least(0, self, "min_train_images", "min_test_images", "max_test_duplicates")
        _share(self, "max_rejected_share", "min_class_share", "max_upscaled_share")
        low, high = self.brightness
        _require(0 <= low < high <= 255, f"brightness is {list(self.brightness)}, expected [low, high] in 0..255")


@_section
class Features:
    """The feature extractor that FID, KID, precision and recall speak of."""

    extractor: Literal["auto", "classifier", "rotation", "inception"]
    """auto: inception with weights, else classifier with labels, else rotation, which names four rotations."""
    inception_weights: str | None
    """Path of torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`."""
    dim: int
    """Features per image of the small extractor."""
    images: int
    """Images seen in its training."""
    batch_size: int
    lr: float
    seed: int

    def __post_init__(self) -> None:
        _positive(self, "images", "batch_size", "lr")
        _require(self.dim >= 16, f"dim is {self.dim}, expected at least 16")
        _at_least(0, self, "seed")
        _named(self, "inception_weights")
        _require(
            self.extractor != "inception" or self.inception_weights is not None,
            "extractor is inception, but inception_weights is null; give the path of "
            "weights-inception-2015-12-05-6726825d.pth there",
        )


@_section
class Schedule:
    """The forward process: how fast it destroys an image."""

    name: Literal["linear", "cosine", "sigmoid", "variance_exploding"]
    T: int
    """Number of steps of the forward process; in continuous time the largest time; variance_exploding ignores it."""
    time: Literal["discrete", "continuous"]
    """Whether training sees the steps 1..T alone or every real time up to T."""
    shift: float
    """SNR is divided by its square; for images of d pixels and a schedule made for 64: d/64."""
    zero_terminal_snr: bool
    """Rescale the schedule so that x_T is pure noise."""
    sigma_min: float
    """variance_exploding only: least noise in training, beside images in [-1, 1]."""
    sigma_max: float
    """variance_exploding only: most noise, of which sampling starts."""

    def __post_init__(self) -> None:
        _require(2 <= self.T <= _MAX_T, f"T is {self.T}, expected 2 to {_MAX_T} steps")
        _positive(self, "shift", "sigma_min")
        _require(
            self.sigma_min < self.sigma_max,
            f"sigma_min is {self.sigma_min}, expected below sigma_max ({self.sigma_max})",
        )
        if self.name == "variance_exploding":
            _require(self.time == "continuous", "name is variance_exploding, whose time is continuous; set time to it")
            _require(
                self.shift == 1 and not self.zero_terminal_snr,
                "name is variance_exploding, which has neither shift nor zero_terminal_snr; set them to 1 and false "
                "and choose sigma_max instead",
            )


@_section
class Objective:
    """What the network predicts and how the loss is weighted over noise levels."""

    target: Literal["eps", "x_0", "v", "edm"]
    weight: Literal["simple", "snr", "min_snr", "p2", "edm"]
    """Of the squared error of x_0; simple: such that the error of the target itself counts alike at all levels."""
    min_snr_gamma: float
    p2_gamma: float
    sigma_data: float
    """Standard deviation of the pixels in [-1, 1]; for target and weight edm."""
    learned_variance: bool
    """The network also says the variance of every step; sampler ddpm uses it."""
    vlb_weight: float
    """Of the variational bound that teaches the variance, beside the weighted loss."""
    bounded: bool
    """The estimate of x_0 is clipped to [-1, 1] in training as it is in sampling: beyond black or white, an estimate
    of a pixel that is black or white costs nothing. For images with many such pixels."""
    time_sampling: Literal["uniform", "importance", "log_normal"]
    """uniform: over the process (variance_exploding: in log sigma); importance: where the loss is large."""
    log_normal: tuple[float, float]
    """Mean and standard deviation of ln sigma in training, for time_sampling log_normal."""

    def __post_init__(self) -> None:
        _positive(self, "min_snr_gamma", "p2_gamma", "sigma_data", "vlb_weight")
        _require(
            self.log_normal[1] > 0, f"log_normal is {list(self.log_normal)}, expected [mean, std] with std above 0"
        )


@_section
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
        _positive(self, "patch", "width", "blocks", "head_channels")
        _share(self, "dropout", "label_dropout")
        _require(self.dropout < 1, f"dropout is {self.dropout}, which drops everything; expected below 1")
        _require(len(self.multipliers) > 0, "multipliers is empty, expected one number per resolution")
        for name in ("multipliers", "attention"):
            values = list(getattr(self, name))
            _require(all(value >= 1 for value in values), f"{name} is {values}, expected whole numbers of 1 or above")
        _require(len(self.multipliers) <= 12, f"multipliers has {len(self.multipliers)} resolutions, expected up to 12")
        _require(self.width % 8 == 0, f"width is {self.width}, expected a multiple of 8")
        channels = self.width * self.multipliers[-1]
        heads = max(1, channels // self.head_channels)
        _require(
            channels % heads == 0,
            f"head_channels is {self.head_channels}, of which {channels} channels at the lowest resolution make "
            f"{heads} heads that are not alike; choose a divisor",
        )
        if self.groups is not None:
            _positive(self, "groups")
            _require(
                self.width % self.groups == 0, f"groups is {self.groups}, expected a divisor of width ({self.width})"
            )


@_section
class Train:
    """The optimizer and how long it runs; every length is in images seen."""

    images: int
    batch_size: int
    """Global: over all devices and accumulation steps."""
    optimizer: Literal["adamw", "muon"]
    """muon: orthogonal moves of the weight matrices, as large as AdamW's, which keeps all other parameters."""
    lr: float
    warmup_images: int
    """The learning rate rises linearly over the first so many."""
    decay_images: int
    """It falls to zero, along a cosine, over the last so many."""
    weight_decay: float
    beta2: float
    """AdamW's second decay rate."""
    grad_clip: float
    """Largest gradient norm."""
    flip: bool
    """Mirror half of the training images, left to right; wrong for writing."""
    ema_halflife_images: int
    max_nonfinite_steps: int
    """Steps in a row with a non-finite loss or gradient that are skipped before training stops."""
    shuffle_shards: int
    """Where the data have several shards: so many of them are mixed at a time, over all machines together. More mix
    better and take more room in the caches; a multiple of the number of machines lets each read only its share."""
    seed: int

    def __post_init__(self) -> None:
        _positive(self, "images", "batch_size", "lr", "grad_clip", "ema_halflife_images", "shuffle_shards")
        _at_least(0, self, "warmup_images", "decay_images", "weight_decay", "max_nonfinite_steps", "seed")
        _require(0 <= self.beta2 < 1, f"beta2 is {self.beta2}, expected 0 or above and below 1")
        _require(
            self.warmup_images + self.decay_images <= self.images,
            f"warmup_images + decay_images is {self.warmup_images + self.decay_images}, "
            f"expected at most images ({self.images})",
        )


@_section
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
        _positive(self, "steps", "grid")
        _at_least(0, self, "seed")
        _named(self, "guide")
        _require(self.images == "auto" or self.images > 0, f"images is {self.images}, expected auto or above 0")
        _require(0 <= self.eta <= 1, f"eta is {self.eta}, expected 0 to 1")
        _require(self.guidance >= 0, f"guidance is {self.guidance}, expected 0 or above")
        _positive(self, "rho", "churn_noise", "langevin_steps", "langevin_snr")
        _share(self, "guidance_rescale")
        _require(self.churn >= 0, f"churn is {self.churn}, expected 0 or above")
        for name in ("churn_range", "guidance_interval"):
            low, high = getattr(self, name)
            _require(
                low >= 0 and (high is None or low < high),
                f"{name} is {[low, high]}, expected [low, high] with 0 <= low < high, or null for no end",
            )
        _require(
            self.threshold is None or 0 < self.threshold <= 1,
            f"threshold is {self.threshold}, expected a share above 0 and at most 1, or null",
        )
        _require(
            self.sampler != "langevin" or self.steps > self.langevin_steps,
            f"steps is {self.steps}, but langevin takes langevin_steps ({self.langevin_steps}) at every noise level "
            "and one at the end; set steps to more",
        )


@_section
class Evaluate:
    """The protocol of the figures."""

    kid_subset_size: int
    kid_subsets: int
    neighbours: int
    """k of precision and recall."""
    blocks: int
    """Disjoint parts of the generated images, for the spread of FID."""
    memorized_quantile: float
    """A generated image nearer to a training image than this quantile of held-out real ones counts as a copy."""
    augmentation: bool
    """Train the extractor's classifier on real, on generated and on both images, and report its accuracies."""
    bits_per_dim: int
    """Held-out images whose likelihood is measured; 0 leaves it out. Each takes about T + 200 network evaluations."""

    def __post_init__(self) -> None:
        _positive(self, "kid_subset_size", "kid_subsets", "neighbours", "blocks")
        _require(self.bits_per_dim >= 0, f"bits_per_dim is {self.bits_per_dim}, expected 0 or a number of images")
        _share(self, "memorized_quantile")


@_section
class Promote:
    """The rule by which a candidate becomes champion."""

    name: str
    """Registered model."""
    metric: Literal["fid", "kid"]
    min_improvement: float
    """Share by which the candidate must be better than the champion."""
    max_over_floor: float
    """The candidate's metric, as a multiple of the floor."""
    max_memorized_share: float
    """The candidate's share of copies in each way of comparing is at most this."""
    approval: Literal["auto", "ask"]
    """ask leaves a better candidate to a person (Prefect or `ddpm promote`)."""

    def __post_init__(self) -> None:
        _require(
            self.name.strip() != "" and not {"/", ":"} & set(self.name),
            f"name is {self.name!r}, expected a name without / and :",
        )
        _share(self, "min_improvement", "max_memorized_share")
        _positive(self, "max_over_floor")


@_section
class Runtime:
    """What the machine does; nothing is built anew for it."""

    device: Literal["auto", "cuda", "mps", "cpu"]
    precision: Precision
    compile: bool
    """Train the network as torch.compile makes it: a minute or more at the start; meant for GPUs. Needs Triton
    there, a C++ compiler on a CPU."""
    workers: int
    """Processes that decode images on this machine; 0 is one per core."""
    cluster: str | None
    """Address of the Dask scheduler whose workers prepare the images; null: a local cluster where it pays."""
    processes: int
    """That train, sample and extract features together; 0 is one per GPU, and one on a CPU. A launcher above the
    stage (torchrun) decides instead."""
    parallel: Literal["ddp", "fsdp"]
    """What each of them holds in training: the whole network, or its share of one that does not fit."""
    device_batch: int | None
    """Images of a training step on a device at a time, the gradients of which are accumulated; null is all."""
    sample_batch: int
    """Images generated at a time."""
    resume: Literal["auto", "never", "required"]
    """From the last checkpoint of the same parameters, data and code: auto where there is one, required or stop."""
    checkpoint_seconds: float
    deterministic: bool
    """A GPU computes with deterministic kernels only, so that a training repeats and resumes bit by bit."""
    progress: bool
    cache: str
    """Folder of the shards that were fetched from data.store, shared by all processes of this machine."""
    cache_bytes: int
    """The most that it holds; the least recently used shard makes room."""

    def __post_init__(self) -> None:
        _positive(self, "sample_batch", "checkpoint_seconds", "cache_bytes")
        for key in ("workers", "processes"):
            _require(getattr(self, key) >= 0, f"{key} is {getattr(self, key)}, expected 0 or above")
        if self.device_batch is not None:
            _positive(self, "device_batch")
        _named(self, "cache")
        _require(
            self.cluster is None or "://" in self.cluster,
            f"cluster is {self.cluster!r}, expected an address such as tcp://host:8786, or null",
        )


@_section
class Tracking:
    """What MLflow is told, and how often; the server is MLFLOW_TRACKING_URI's."""

    experiment: str
    log_every_images: int
    grid_every_images: int

    def __post_init__(self) -> None:
        _named(self, "experiment")
        _positive(self, "log_every_images", "grid_every_images")


@_section
class Serve:
    """Bounds of work over HTTP; a registered version carries those that it was made with. No stage reruns for them.

    Work is network evaluations times pixels (high times wide); guidance evaluates twice.
    """

    max_work: int
    """Of one call; a larger one is answered 429."""
    max_work_together: int
    """Of all calls under way; a new one gets at most half of what is free of it, or is answered 429."""
    max_seconds: float
    """Of one call, which then ends with 504."""
    max_body_bytes: int
    """Of a call's body, in `ddpm serve`; a larger one is answered 413."""

    def __post_init__(self) -> None:
        _positive(self, "max_work", "max_work_together", "max_seconds", "max_body_bytes")
        _require(
            2 * self.max_work <= self.max_work_together,
            f"max_work_together is {self.max_work_together}, of which one call gets at most half; "
            f"set it to {2 * self.max_work} or more",
        )


@_section
class Params:
    """The whole of params.yaml."""

    data: Data
    validate: Validate
    features: Features
    schedule: Schedule
    objective: Objective
    network: Network
    train: Train
    sample: Sample
    evaluate: Evaluate
    promote: Promote
    runtime: Runtime
    tracking: Tracking
    serve: Serve

    def __post_init__(self) -> None:
        unread = idle.refused(self)
        _require(unread is None, str(unread))
        schedule, objective = self.schedule, self.objective
        _require(
            not (schedule.zero_terminal_snr and objective.target == "eps"),
            "objective.target is eps, but with schedule.zero_terminal_snr x_T is nothing but noise, of which eps says "
            "nothing about the image; set target to v, x_0 or edm",
        )
        _require(
            not (schedule.zero_terminal_snr and self.sample.sampler == "langevin"),
            "sample.sampler is langevin, which divides by the share of the image in x_t, but with "
            "schedule.zero_terminal_snr x_T holds none; set zero_terminal_snr to false or choose another sampler",
        )
        for key, value in (("learned_variance", True), ("time_sampling", "importance")):
            _require(
                schedule.time == "discrete" or getattr(objective, key) != value,
                f"objective.{key} is {str(value).lower()}, which needs the steps of a chain; "
                "set schedule.time to discrete",
            )
        _require(
            objective.time_sampling != "log_normal" or schedule.name == "variance_exploding",
            "objective.time_sampling is log_normal, whose time is sigma; set schedule.name to variance_exploding "
            "or time_sampling to uniform",
        )
        _require(
            schedule.time == "continuous" or self.sample.steps <= schedule.T,
            f"sample.steps is {self.sample.steps}, expected at most schedule.T ({self.schedule.T})",
        )
        _require(
            self.sample.guidance == 1 or self.sample.guide is not None or self.network.label_dropout > 0,
            f"sample.guidance is {self.sample.guidance}, but network.label_dropout is 0, so the model has no "
            "unconditional prediction to guide with; set label_dropout above 0 or guidance to 1",
        )
        _require(
            not objective.bounded or self.sample.threshold is None or self.sample.guidance != 1,
            f"sample.threshold is {self.sample.threshold}, which acts beyond [-1, 1] alone, but with objective.bounded "
            "and without guidance nothing lies there; set threshold to null",
        )
        _require(
            self.sample.variance != "learned" or objective.learned_variance,
            "sample.variance is learned, but objective.learned_variance is false, so the model has none; "
            "set sample.variance to small or large, or train with learned_variance",
        )
        for key, value, idle_value in (
            ("features.extractor", self.features.extractor == "classifier", "auto or rotation"),
            ("evaluate.augmentation", self.evaluate.augmentation, "false"),
            ("sample.guidance", self.sample.guidance != 1 and self.sample.guide is None, "1"),
        ):
            _require(
                self.data.labels or not value,
                f"{key} is {idle.yaml(idle.value_of(self, key))}, which needs classes, but data.labels is false; "
                f"set {key} to {idle_value} or data.labels to true",
            )
        processes = self.runtime.processes
        for key in ("train.batch_size", "features.batch_size"):
            batch = idle.value_of(self, key)
            _require(
                processes <= batch, f"{key} is {batch}, which runtime.processes ({processes}) cannot share; raise it"
            )
        for name, needed in (
            ("evaluate.kid_subset_size", self.evaluate.kid_subset_size),
            ("evaluate.neighbours", self.evaluate.neighbours + 1),  # an image is no neighbour of itself
        ):
            _require(
                self.sample.images == "auto" or needed <= self.sample.images,
                f"sample.images is {self.sample.images}, but {name} asks for at least {needed}; "
                "raise the one or lower the other",
            )


def load(path: Path | str = "params.yaml") -> Params:
    """The validated parameters.

    Raises UserError, one sentence that names the key: for what `yaml_file.read` refuses, an unknown or missing key,
    a wrong type, a number that is NaN, infinite or out of range, a pair of values that cannot work together, or a
    setting that nothing reads beside the others (`idle.REFUSED`).
    """
    from pydantic import TypeAdapter, ValidationError

    path = Path(path)
    read = yaml_file.read(path)
    try:
        # Through JSON, because pydantic's strict mode takes a list for a tuple there, and nothing else loosely.
        return TypeAdapter(Params).validate_json(json.dumps(read), strict=True)
    except ValidationError as error:
        raise UserError(f"{path}: {_sentence(error.errors()[0])}") from None


def whole_recipe(told: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of the `diffusion.settings.Recipe` of which somebody's file tells these.

    Raises TypeError for a field that is unknown or lacking, and ValueError, with the key, unless params.yaml may say so
    of how images are drawn: the kinds and bounds are those of `sample` and of `runtime.precision`.
    """
    from pydantic import TypeAdapter, ValidationError

    from ddpm.diffusion.settings import Recipe

    recipe = dataclasses.asdict(Recipe(**told))
    of_sample = {key: value for key, value in recipe.items() if key != "precision"}
    of_images = {"images": "auto", "grid": 1, "seed": 0}
    try:
        TypeAdapter(Sample).validate_json(json.dumps(of_sample | of_images), strict=True)
        TypeAdapter(Precision).validate_json(json.dumps(recipe["precision"]), strict=True)
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0])) from None
    return recipe


def _sentence(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if part not in ("literal['auto']", "int", "str"))
    if error["type"] == "unexpected_keyword_argument":
        return f"{key} is no known key; remove it or correct its spelling"
    if error["type"] in ("missing", "missing_argument"):
        return f"{key} is missing; add it (src/ddpm/config.py says what it means)"
    if error["type"] == "value_error":
        detail = str(error["ctx"]["error"])
        return f"{key}: {detail}" if key else detail
    message = error["msg"][0].lower() + error["msg"][1:]
    return f"{key} is {reprlib.repr(error['input'])}, but its {message}"


def as_dict(section: Any) -> dict[str, Any]:
    """A section as plain values, the way a model file or a tracker stores it."""
    return json.loads(json.dumps(dataclasses.asdict(section)))
