"""The parameters in params.yaml: the settings of all packages, read strictly, and the checks between sections.

Every stage validates the whole file. The first stage, `configure`, runs whenever the file changes, so that a typo in
the last section is found before training and not after it.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from ddpm import unread_settings, yaml_file
from ddpm.canary.settings import Canary
from ddpm.compute.settings import Runtime
from ddpm.data.preparing.settings import Data
from ddpm.data.validating.settings import Validate
from ddpm.degrading.settings import ImageCondition
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.errors import UserError
from ddpm.measuring.features.settings import Features
from ddpm.measuring.settings import Evaluate
from ddpm.networks.settings import Condition, Domain, Gan, Method, Network, Text, Vae
from ddpm.pipeline.settings import Retrain
from ddpm.promotion import unmeasured
from ddpm.promotion.settings import Promote
from ddpm.sampling.settings import Sample
from ddpm.searching.settings import Search
from ddpm.serving.settings import Serve, Watch
from ddpm.settings import require, section, sentence_of
from ddpm.signing.settings import Signing
from ddpm.tracking.settings import Tracking
from ddpm.training.autoencoder import codec_of
from ddpm.training.settings import Autoencoder, Train


@section
class Params:
    """All sections of params.yaml."""

    data: Data
    validate: Validate
    features: Features
    method: Method
    """Kind of model. diffusion: a denoising diffusion model, by sections schedule, objective and network; vae: a
    variational autoencoder; gan: a generative adversarial network. All other sections are the same for all three."""
    schedule: Schedule
    objective: Objective
    network: Network
    vae: Vae
    gan: Gan
    condition: Condition
    """What the model is conditioned on. label: the class of an image, if the data have classes; text: its caption, by
    section text; image: the image itself, degraded, by section image; none: nothing, even if the data have
    classes."""
    text: Text
    image: ImageCondition
    codec: Domain
    """What diffuses. pixels: those of the images; autoencoder: latents, to which an autoencoder brings images, by
    section autoencoder (latent diffusion)."""
    autoencoder: Autoencoder
    train: Train
    sample: Sample
    evaluate: Evaluate
    promote: Promote
    canary: Canary
    retrain: Retrain
    search: Search
    runtime: Runtime
    tracking: Tracking
    serve: Serve
    watch: Watch
    signing: Signing

    def __post_init__(self) -> None:
        unread = unread_settings.refused(self)
        require(unread is None, str(unread))
        judged = unmeasured.refused(self)
        require(judged is None, str(judged))
        schedule, objective, train = self.schedule, self.objective, self.train
        require(
            not (schedule.ends_in_noise and objective.target == "eps"),
            f"objective.target is eps, but with schedule.{schedule.ending} x_T is pure noise, from which a prediction "
            "of eps does not determine the image; set target to v, x_0, edm or velocity",
        )
        for setting, needs_steps in (
            ("objective.learned_variance is true", objective.learned_variance),
            ("train.time_sampling is importance", train.time_sampling == "importance"),
        ):
            require(
                schedule.time == "discrete" or not needs_steps,
                f"{setting}, which needs discrete time steps; set schedule.time to discrete",
            )
        self.sample.require_fits(schedule, called="sample.")
        require(
            self.sample.guidance == 1 or self.sample.guide is not None or train.label_dropout > 0,
            f"sample.guidance is {self.sample.guidance}, but train.label_dropout is 0, so the model has no "
            "unconditional prediction, which guidance needs; set label_dropout above 0 or guidance to 1",
        )
        require(
            not objective.bounded or self.sample.threshold is None or self.sample.guidance != 1,
            f"sample.threshold is {self.sample.threshold}, which changes only values outside [-1, 1], but with "
            "objective.bounded and without guidance there are none; set threshold to null",
        )
        require(
            self.sample.ddpm.variance != "learned" or objective.learned_variance,
            "sample.ddpm.variance is learned, but objective.learned_variance is false, so the model predicts none; "
            "set sample.ddpm.variance to small or large, or train with learned_variance",
        )
        self._require_condition()
        self._require_codec()
        for key, value, idle_value in (
            ("features.extractor", self.features.extractor == "classifier", "auto or rotation"),
            ("features.second", self.features.second == "classifier", "rotation or null"),
            ("evaluate.augmentation", self.evaluate.augmentation, "false"),
        ):
            require(
                self.data.labels or not value,
                f"{key} is {unread_settings.yaml(unread_settings.value_of(self, key))}, which needs classes, but "
                f"data.labels is false; set {key} to {idle_value} or data.labels to true",
            )
        if self.method != "diffusion":
            require(
                self.condition not in ("text", "image"),
                f"condition is {self.condition}, which only method diffusion supports, but method is {self.method}; "
                "set condition to label or method to diffusion",
            )
            for key, other, instead in (
                ("train.optimizer", "muon", "adamw"),
                ("runtime.parallel", "fsdp", "ddp"),
                ("runtime.parallel", "hybrid", "ddp"),
            ):
                require(
                    unread_settings.value_of(self, key) != other,
                    f"{key} is {other}, which only method diffusion supports; set {key} to {instead} or method to "
                    "diffusion",
                )
        processes = self.runtime.processes
        for key in ("train.batch_size", "features.batch_size"):
            batch = unread_settings.value_of(self, key)
            require(
                processes <= batch, f"{key} is {batch}, expected at least runtime.processes ({processes}); raise it"
            )
        require(
            self.features.dim < self.evaluate.held_out_images,
            f"evaluate.held_out_images is {self.evaluate.held_out_images}, but FID with features.dim "
            f"({self.features.dim}) needs more than {self.features.dim}; raise the former or lower the latter",
        )
        for name, needed in self.evaluate.images_needed.items():
            require(
                self.sample.images == "auto" or needed <= self.sample.images,
                f"sample.images is {self.sample.images}, but evaluate.{name} needs at least {needed}; "
                "raise the former or lower the latter",
            )

    def _require_condition(self) -> None:
        require(
            self.condition != "text" or self.data.captions,
            "condition is text, but data.captions is false; set data.captions to true or condition to label",
        )
        require(
            self.condition == "label" or not self.evaluate.augmentation,
            f"evaluate.augmentation is true, which needs generated images with classes, but condition is "
            f"{self.condition}; set evaluate.augmentation to false or condition to label",
        )
        self._require_picture()
        has = {"none": False, "label": self.data.labels, "text": True, "image": True}[self.condition]
        lacking = "condition is none" if self.condition == "none" else "data.labels is false"
        require(
            has or self.sample.guidance == 1 or self.sample.guide is not None,
            f"sample.guidance is {self.sample.guidance:g}, which needs classes or captions, but {lacking}; set "
            "sample.guidance to 1 or condition to text, or to label with data.labels true",
        )

    def _require_picture(self) -> None:
        if self.condition != "image":
            return
        fault = self.image.fault(channels=self.data.channels, size=self.data.size)
        require(fault is None, str(fault))
        require(
            self.sample.base is None or "super-resolution" in self.image.degradations,
            "sample.base is set, but image.degradations has no super-resolution, by which its images are enlarged; add "
            "it, or set sample.base to null",
        )
        (low, high), noise = self.image.noise, self.sample.picture_noise
        only_denoise = self.image.degradations == ("denoise",)
        require(
            noise == 0 if only_denoise else low <= noise <= high,
            f"sample.picture_noise is {noise:g}, expected "
            + ("0, because denoise adds no other noise" if only_denoise else f"{low:g} to {high:g} (image.noise)")
            + "; change it",
        )

    def _require_codec(self) -> None:
        """Raise ValueError for what latents cannot do: they have no bounds, no levels, and no mirror image."""
        if self.codec == "pixels":
            return
        for key, allowed, why in (
            ("method", "diffusion", "only diffusion draws latents"),
            ("objective.bounded", False, "latents have no bounds"),
            ("objective.learned_variance", False, "latents have no levels"),
            ("sample.threshold", None, "latents have no bounds"),
            ("evaluate.bits_per_dim", 0, "the likelihood of latents is not that of images"),
            ("train.flip", False, "a mirrored latent is not that of the mirrored image"),
            ("train.augment.probability", 0, "a transformed latent is not that of the transformed image"),
        ):
            value = unread_settings.value_of(self, key)
            require(
                value == allowed,
                f"codec is autoencoder, but {key} is {unread_settings.yaml(value)}, and {why}; set {key} to "
                f"{unread_settings.yaml(allowed)} or codec to pixels",
            )
        require(
            self.condition != "image",
            "codec is autoencoder, but condition is image, which joins pixels to pixels; set condition to none, label "
            "or text, or codec to pixels",
        )
        features = self.features
        published = features.extractor in ("inception", "dinov2", "clip") or (
            features.extractor == "auto" and features.inception_weights is not None
        )
        require(
            not published or self.autoencoder.pretrained is not None or self.autoencoder.perceptual_weight == 0,
            f"autoencoder.perceptual_weight is {self.autoencoder.perceptual_weight:g}, but its distance needs an "
            "extractor that is trained here, and features asks for a published one; set it to 0, or "
            "features.extractor to rotation or classifier",
        )
        size, factor = self.data.size, codec_of(self.autoencoder).factor
        multiple = factor if self.autoencoder.pretrained is None else 1
        require(
            size is not None and size % multiple == 0,
            f"codec is autoencoder, but data.size is {unread_settings.yaml(size)}, expected a multiple of {multiple}, "
            "by which latents are smaller; set data.size",
        )


def load(path: Path | str = "params.yaml") -> Params:
    """Read a file and return the validated parameters.

    Raises UserError, one sentence that names the key: for a file that `yaml_file.read` refuses, an unknown or missing
    key, a wrong type, a number that is NaN, infinite or out of range, two values that exclude each other, or a setting
    that has no effect with the others (`unread_settings.REFUSED`).
    """
    path = Path(path)
    return validate(yaml_file.read(path), source=str(path))


def validate(values: dict[str, Any], *, source: str) -> Params:
    """Return the validated parameters. Raises UserError as `load` does; `source` names the file of the values."""
    from pydantic import ValidationError

    try:
        # Via JSON, because there pydantic's strict mode accepts a list as a tuple, and converts nothing else.
        return _adapter().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{source}: {sentence_of(error, Params)}") from None


@cache
def _adapter() -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(Params)
