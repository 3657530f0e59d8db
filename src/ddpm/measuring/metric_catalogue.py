"""The catalogue of metrics: what each is called, what it means, and which direction is better.

A metric of a model has the same name in reports/metrics.json and in MLflow. A floor is nested under `floor` in the JSON
file; MLflow has those of FID and KID, as `fid_floor` and `kid_floor`. The interval of 95 % is nested under `interval`;
MLflow has its ends as NAME_low and NAME_high. Curves of the training begin with `training/` or `training_details/`,
because MLflow groups charts by the part before the slash, in alphabetical order, and shows names without a slash last.
Everything that shows metrics to people takes their labels and meanings from here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

Group = Literal["quality", "copies", "likelihood", "augmentation", "training", "speed"]
"""quality: of the generated images; copies: of training images among them; likelihood: of held-out images;
augmentation: generated images as training data; training: curves; speed: of training and sampling."""

Kind = Literal["value", "low", "high", "floor"]
"""low, high: ends of another metric's interval of 95 %; floor: the metric of real images."""

LOW, HIGH = "_low", "_high"
FLOOR = "_floor"
CURVES = "training/"
DETAILS = "training_details/"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric. Texts are plain sentences without markup."""

    name: str
    """Key in reports/metrics.json and in MLflow."""
    label: str
    """Short title for tables and charts."""
    meaning: str
    """One sentence that ends with a full stop."""
    unit: str = ""
    """Empty for a number without a unit."""
    better: Literal["lower", "higher"] | None = None
    """Which values are better; None if neither."""
    group: Group
    kind: Kind = "value"
    has_interval: bool = False
    """MLflow has the ends of its interval of 95 %, NAME_low and NAME_high; `interval` in reports/metrics.json, too."""
    has_floor: bool = False
    """Real images were measured, too: `floor` in reports/metrics.json has this metric."""
    logs_floor: bool = False
    """MLflow has the floor, too: the metric called NAME_floor exists."""

    @property
    def direction(self) -> str:
        """The direction in words, such as "lower is better"; empty if neither is."""
        return f"{self.better} is better" if self.better else ""

    @property
    def heading(self) -> str:
        """The label with the direction, such as "FID, lower is better"."""
        return f"{self.label}, {self.direction}" if self.better else self.label

    @property
    def floor(self) -> str:
        """The name of the metric in MLflow that has this one's floor."""
        return f"{self.name}{FLOOR}"


_quality = partial(Metric, group="quality", has_floor=True, has_interval=True)
_copies = partial(Metric, group="copies", unit="share, 0 to 1", better="lower", has_floor=True, has_interval=True)
_bits = partial(Metric, group="likelihood", unit="bits per dimension", better="lower")
_accuracy = partial(Metric, group="augmentation", unit="share, 0 to 1", better="higher")
_curve = partial(Metric, group="training")
_speed = partial(Metric, group="speed", unit="images per second", better="higher")

_NEAR = "Share of the generated images that are nearer to a training image than almost all held-out real images are"
_CLASSIFIER = "Accuracy on held-out real images of a classifier that was trained on"

METRICS: tuple[Metric, ...] = (
    _quality(
        name="fid",
        label="FID",
        meaning="Fréchet distance of the features of generated images to those of held-out real images.",
        unit="squared distance of features",
        better="lower",
        logs_floor=True,
    ),
    _quality(
        name="fid_infinity",
        label="FID at infinity",
        meaning="FID less its bias by the numbers of images, so that it does not depend on them; about 0 for perfect "
        "images, and it may be negative.",
        unit="squared distance of features",
        better="lower",
    ),
    _quality(
        name="kid",
        label="KID",
        meaning="Kernel distance of the same features; it is unbiased, so it may be slightly negative.",
        unit="squared distance of features",
        better="lower",
        logs_floor=True,
    ),
    _quality(
        name="fid_second",
        label="FID, second",
        meaning="Fréchet distance of the features of the second extractor; both should agree which model is better.",
        unit="squared distance of features",
        better="lower",
        logs_floor=True,
    ),
    _quality(
        name="kid_second",
        label="KID, second",
        meaning="Kernel distance of the features of the second extractor; it does not need many images.",
        unit="squared distance of features",
        better="lower",
        logs_floor=True,
    ),
    _quality(
        name="inception_score",
        label="Inception score",
        meaning="How clearly a classifier recognises the single images, and how evenly they cover the classes.",
        unit="1 to the number of classes",
        better="higher",
    ),
    _quality(
        name="precision",
        label="Precision",
        meaning="Share of the generated images whose features are among those of real images.",
        unit="share, 0 to 1",
        better="higher",
    ),
    _quality(
        name="recall",
        label="Recall",
        meaning="Share of the held-out real images whose features are among those of generated images.",
        unit="share, 0 to 1",
        better="higher",
    ),
    _quality(
        name="density",
        label="Density",
        meaning="How densely generated images lie where real images are: the number of real images whose neighbourhood "
        "each is in, relative to other real images.",
        unit="relative to real images",
        better="higher",
    ),
    _quality(
        name="coverage",
        label="Coverage",
        meaning="Share of the held-out real images that have a generated image among their nearest neighbours.",
        unit="share, 0 to 1",
        better="higher",
    ),
    _quality(
        name="classes_covered",
        label="Classes covered",
        meaning="Share of the classes of which there are at least half as many generated images as in the real ones.",
        unit="share, 0 to 1",
        better="higher",
    ),
    _quality(
        name="sharpness",
        label="Sharpness",
        meaning="Power of the upper half of the frequencies; 1 is as sharp as real images, less is blurred, more is "
        "noisy.",
        unit="relative to real images",
    ),
    _quality(
        name="data_copying",
        label="Data copying",
        meaning="C_T, which compares the distances of generated and of held-out images to the nearest training images; "
        "0 is as near as real images, below -3 is copying.",
        unit="standard deviations",
        has_floor=False,
    ),
    _copies(name="memorized_share", label="Copies by pixels", meaning=f"{_NEAR}, pixel by pixel."),
    _copies(name="memorized_share_features", label="Copies by features", meaning=f"{_NEAR}, by their features."),
    _copies(name="memorized_share_shifted", label="Copies, shifted", meaning=f"{_NEAR}, shifted by up to one pixel."),
    _copies(name="memorized_share_mirrored", label="Copies, mirrored", meaning=f"{_NEAR}, mirrored left to right."),
    _copies(name="memorized_share_half", label="Copies by halves", meaning=f"{_NEAR}, by their most similar half."),
    _bits(
        name="bits_per_dim_bound",
        label="Bits per dimension, bound",
        meaning="Variational upper bound of the code length of held-out images.",
    ),
    _bits(
        name="bits_per_dim_bound_prior",
        label="Bits per dimension, prior",
        meaning="Part of the variational bound: the distance of the noised images to pure noise.",
    ),
    _bits(
        name="bits_per_dim_bound_decoder",
        label="Bits per dimension, decoder",
        meaning="Part of the variational bound: the last step, from the least noise to pixels.",
    ),
    _bits(
        name="bits_per_dim_ode",
        label="Bits per dimension, ODE",
        meaning="Bound of the code length of held-out images by the probability flow ODE.",
    ),
    _accuracy(
        name="accuracy_trained_on_real", label="Accuracy, trained on real images", meaning=f"{_CLASSIFIER} real images."
    ),
    _accuracy(
        name="accuracy_trained_on_generated",
        label="Accuracy, trained on generated images",
        meaning=f"{_CLASSIFIER} generated images.",
    ),
    _accuracy(
        name="accuracy_trained_on_both",
        label="Accuracy, trained on both",
        meaning=f"{_CLASSIFIER} real and generated images.",
    ),
    _curve(
        name=f"{CURVES}fid",
        label="FID during training",
        meaning="FID of a few images of the averaged network at this point (evaluate.during of them): only for "
        "comparison within the curve, because FID depends on the number of images.",
        unit="squared distance of features",
        better="lower",
    ),
    _curve(
        name=f"{CURVES}loss",
        label="Loss",
        meaning="Mean weighted loss of the training steps since the last point.",
        better="lower",
    ),
    *(
        _curve(
            name=f"{DETAILS}loss_noise_quarter_{k}",
            label=f"Loss, noise quarter {k} of 4",
            meaning=f"The same loss in {which} quarter of the noise levels.",
            better="lower",
        )
        for k, which in enumerate(("the least noisy", "the second", "the third", "the noisiest"), start=1)
    ),
    _curve(name=f"{DETAILS}gradient_norm", label="Gradient norm", meaning="Mean norm of the gradient before clipping."),
    _curve(
        name=f"{DETAILS}learning_rate", label="Learning rate", meaning="Learning rate of the optimizer at this point."
    ),
    _curve(
        name=f"{DETAILS}nonfinite_steps",
        label="Skipped steps",
        meaning="Number of steps so far that were skipped because loss or gradient was not finite.",
        unit="steps",
        better="lower",
    ),
    _speed(
        name=f"{DETAILS}images_per_second",
        label="Training speed",
        meaning="Training images per second since the last point.",
    ),
    _speed(
        name="sampling_images_per_second",
        label="Sampling speed",
        meaning="Images per second when the images for the evaluation were generated.",
    ),
    Metric(
        name="seconds_per_image",
        label="Seconds per image",
        meaning="Time to generate one image; the gate measures it, beside the champion's on the same machine.",
        unit="seconds",
        better="lower",
        group="speed",
    ),
)
"""All metrics but floors and ends of intervals, in the order in which people read them."""

JUDGED: tuple[Metric, ...] = tuple(metric for metric in METRICS if metric.group in ("quality", "copies"))
"""The metrics by which a model is judged: those of reports/metrics.json."""


_ENDS: tuple[tuple[Kind, str, str], ...] = (("low", LOW, "Lower"), ("high", HIGH, "Upper"))


def with_floors() -> Iterator[Metric]:
    """Yield every metric that MLflow may have, but for the ends of intervals: each value, then its floor."""
    for metric in METRICS:
        yield metric
        if metric.logs_floor:
            yield Metric(
                name=metric.floor,
                label=f"{metric.label}, floor",
                meaning=f"{metric.label} of real images, measured the same way.",
                unit=metric.unit,
                group=metric.group,
                kind="floor",
            )


def with_floors_and_intervals() -> Iterator[Metric]:
    """Yield every metric that MLflow may have: each value, its floor, and the ends of its interval."""
    for metric in with_floors():
        yield metric
        if metric.has_interval:
            for kind, suffix, which in _ENDS:
                yield Metric(
                    name=f"{metric.name}{suffix}",
                    label=f"{metric.label}, {which.lower()} end",
                    meaning=f"{which} end of the 95 % interval of {metric.label}.",
                    unit=metric.unit,
                    group=metric.group,
                    kind=kind,
                )


def find(name: str) -> Metric | None:
    """Return the metric of this name, such as `fid`, `fid_low`, `fid_high` or `fid_floor`; None for an unknown one."""
    return next((metric for metric in with_floors_and_intervals() if metric.name == name), None)
