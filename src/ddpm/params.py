"""The whole of params.yaml: the sum of the rooms' settings, read strictly, and the checks between sections.

Every stage validates the whole file, and `configure`, the first one, runs whenever it changes: a typo in `promote`
stops before a night of training and not after it.
"""

import json
from pathlib import Path
from typing import Any

from ddpm import unread_settings, yaml_file
from ddpm.compute.settings import Runtime
from ddpm.data.preparing.settings import Data
from ddpm.data.validating.settings import Validate
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.errors import UserError
from ddpm.measuring.features.settings import Features
from ddpm.measuring.settings import Evaluate
from ddpm.networks.settings import Network
from ddpm.promotion.settings import Promote
from ddpm.sampling.settings import Sample
from ddpm.serving.settings import Serve
from ddpm.settings import require, section, sentence_of
from ddpm.tracking.settings import Tracking
from ddpm.training.settings import Train


@section
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
        unread = unread_settings.refused(self)
        require(unread is None, str(unread))
        schedule, objective, train = self.schedule, self.objective, self.train
        require(
            not (schedule.zero_terminal_snr and objective.target == "eps"),
            "objective.target is eps, but with schedule.zero_terminal_snr x_T is nothing but noise, of which eps says "
            "nothing about the image; set target to v, x_0 or edm",
        )
        require(
            not (schedule.zero_terminal_snr and self.sample.sampler == "langevin"),
            "sample.sampler is langevin, which divides by the share of the image in x_t, but with "
            "schedule.zero_terminal_snr x_T holds none; set zero_terminal_snr to false or choose another sampler",
        )
        for what, of_chain in (
            ("objective.learned_variance is true", objective.learned_variance),
            ("train.time_sampling is importance", train.time_sampling == "importance"),
        ):
            require(
                schedule.time == "discrete" or not of_chain,
                f"{what}, which needs the steps of a chain; set schedule.time to discrete",
            )
        require(
            train.time_sampling != "log_normal" or schedule.name == "variance_exploding",
            "train.time_sampling is log_normal, whose time is sigma; set schedule.name to variance_exploding "
            "or time_sampling to uniform",
        )
        require(
            schedule.time == "continuous" or self.sample.steps <= schedule.T,
            f"sample.steps is {self.sample.steps}, expected at most schedule.T ({self.schedule.T})",
        )
        require(
            self.sample.guidance == 1 or self.sample.guide is not None or train.label_dropout > 0,
            f"sample.guidance is {self.sample.guidance}, but train.label_dropout is 0, so the model has no "
            "unconditional prediction to guide with; set label_dropout above 0 or guidance to 1",
        )
        require(
            not objective.bounded or self.sample.threshold is None or self.sample.guidance != 1,
            f"sample.threshold is {self.sample.threshold}, which acts beyond [-1, 1] alone, but with objective.bounded "
            "and without guidance nothing lies there; set threshold to null",
        )
        require(
            self.sample.ddpm.variance != "learned" or objective.learned_variance,
            "sample.ddpm.variance is learned, but objective.learned_variance is false, so the model has none; "
            "set sample.ddpm.variance to small or large, or train with learned_variance",
        )
        for key, value, idle_value in (
            ("features.extractor", self.features.extractor == "classifier", "auto or rotation"),
            ("evaluate.augmentation", self.evaluate.augmentation, "false"),
            ("sample.guidance", self.sample.guidance != 1 and self.sample.guide is None, "1"),
        ):
            require(
                self.data.labels or not value,
                f"{key} is {unread_settings.yaml(unread_settings.value_of(self, key))}, which needs classes, but "
                "data.labels is false; "
                f"set {key} to {idle_value} or data.labels to true",
            )
        processes = self.runtime.processes
        for key in ("train.batch_size", "features.batch_size"):
            batch = unread_settings.value_of(self, key)
            require(
                processes <= batch, f"{key} is {batch}, which runtime.processes ({processes}) cannot share; raise it"
            )
        for name, needed in (
            ("evaluate.kid_subset_size", self.evaluate.kid_subset_size),
            ("evaluate.neighbours", self.evaluate.neighbours + 1),  # an image is no neighbour of itself
        ):
            require(
                self.sample.images == "auto" or needed <= self.sample.images,
                f"sample.images is {self.sample.images}, but {name} asks for at least {needed}; "
                "raise the one or lower the other",
            )


def load(path: Path | str = "params.yaml") -> Params:
    """The validated parameters.

    Raises UserError, one sentence that names the key: for what `yaml_file.read` refuses, an unknown or missing key,
    a wrong type, a number that is NaN, infinite or out of range, a pair of values that cannot work together, or a
    setting that nothing reads beside the others (`unread_settings.REFUSED`).
    """
    path = Path(path)
    return validate(yaml_file.read(path), source=str(path))


def validate(values: dict[str, Any], *, source: str) -> Params:
    """The parameters of these plain values. Raises UserError as `load` does; `source` says where they were read."""
    from pydantic import TypeAdapter, ValidationError

    try:
        # Through JSON, because pydantic's strict mode takes a list for a tuple there, and nothing else loosely.
        return TypeAdapter(Params).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {sentence_of(error.errors()[0])}") from None
