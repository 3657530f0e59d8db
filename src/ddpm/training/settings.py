"""The settings of the training: sections `train` and `autoencoder` of params.yaml."""

from typing import Any, Literal

from ddpm.settings import as_dict, require, require_at_least, require_named, require_positive, require_share, section

Transform = Literal["mirror", "flip", "scale", "rotate", "stretch", "shift"]
"""mirror: left to right; flip: upside down; scale: larger or smaller; rotate: by any angle; stretch: along an axis of
any direction, and shrunk across it; shift: right or left, up or down."""


@section
class Augment:
    """Non-leaky augmentation: the network gets the transformation of each training image as an input, so that generated
    images have none. Useful for few images.  Karras et al. 2022, appendix F.2."""

    probability: float
    """Each transformation is applied to an image with this probability, independently of the others. Karras et al. use
    0.12 to 0.15. 0: no augmentation, and the network has no input for it."""
    transforms: tuple[Transform, ...]
    """Possible transformations of an image."""

    def __post_init__(self) -> None:
        require(
            0 <= self.probability < 1,
            f"probability is {self.probability}, expected 0 or more and below 1, because with 1 no image is untouched",
        )
        transforms = list(self.transforms)
        require(len(transforms) == len(set(transforms)), f"transforms is {transforms}, expected each one once")
        require(
            self.probability == 0 or len(transforms) > 0,
            f"probability is {self.probability}, but transforms is empty; name some or set probability to 0",
        )


@section
class Lora:
    """Low-rank adapters: of the layers taken over from the model in train.start, only a small change is trained, and it
    is added to them in the model file.  Hu et al. 2021."""

    rank: int
    """Rank of the change of each weight matrix or kernel; 0: no adapters, all weights are trained. Hu et al. use 1 to
    64. Above 0, the normalisations, biases and label embeddings that were taken over completely stay as they are."""
    alpha: float
    """The change is multiplied by alpha / rank, so that a learning rate suits several ranks; above 0."""

    def __post_init__(self) -> None:
        require_at_least(0, self, "rank")
        require_positive(self, "alpha")


@section
class Train:
    """The optimizer, the content of a step, and the length of training; all lengths are in images seen."""

    images: int
    """Images seen in training: the length, whatever the number of images in the data."""
    minutes: float | None
    """Time for which the length is planned, once, from the measured speed, instead of `images`: decay_images and
    ema_halflife_images then keep their ratio to `images`, and warmup_images is at most a tenth of the length. null: the
    length is `images`."""
    max_hours: float | None
    """A training that would take longer is not begun; null: no limit. It changes no result."""
    batch_size: int
    """Images per step, over all devices and accumulation steps."""
    optimizer: Literal["adamw", "muon"]
    """muon: orthogonal updates of weight matrices, scaled to the size of AdamW's; AdamW for all other parameters."""
    lr: float
    """Largest learning rate."""
    warmup_images: int
    """Number of first images over which the learning rate rises linearly from zero."""
    decay_images: int
    """Number of last images over which it falls to zero, along a cosine."""
    weight_decay: float
    """Share of the learning rate by which each step shrinks weight matrices and kernels (Loshchilov and Hutter 2019);
    biases, normalisations and label embeddings do not shrink."""
    beta2: float
    """AdamW's second decay rate."""
    grad_clip: float
    """Largest gradient norm."""
    time_sampling: Literal["uniform", "importance", "log_normal"]
    """Distribution of the times t. uniform: over the process (variance_exploding: in log sigma); importance: more often
    where the loss is large; log_normal: in the noise level sigma / alpha."""
    log_normal: tuple[float, float]
    """Mean and standard deviation of ln(sigma / alpha), for time_sampling log_normal. [-1.2, 1.2]: Karras et al.
    2022; [ln(schedule.shift), 1]: the times that Esser et al. 2024 recommend for flow matching."""
    label_dropout: float
    """Share of labels or captions hidden from the network; guidance needs it above 0."""
    flip: bool
    """Mirror half of the training images, left to right, and thus the generated ones, too; wrong for writing. It says
    that a mirrored image could have been one of the data; `augment` says that it could not."""
    augment: Augment
    ema_halflife_images: int
    """Half-life, in images seen, of the moving average of the weights, which is the model that is saved."""
    max_nonfinite_steps: int
    """Steps in a row with a non-finite loss or gradient that are skipped before training stops. A CPU counts at every
    step, a GPU when the loss is logged."""
    shuffle_shards: int
    """Number of shards that are mixed at a time, over all machines together. More shards mix better and need larger
    caches; with a multiple of the number of machines, each machine reads only its share."""
    seed: int
    """Decides the first weights, the order of images, and the times and noise of every step."""
    start: str | None
    """Model whose weights the training starts from: champion (of promote.name, when the training begins), or the path
    of a model file or of a folder of diffusers in data/starts. null: untrained weights."""
    lora: Lora

    def __post_init__(self) -> None:
        require_positive(self, "images", "batch_size", "lr", "grad_clip", "ema_halflife_images", "shuffle_shards")
        require_at_least(0, self, "warmup_images", "decay_images", "weight_decay", "max_nonfinite_steps", "seed")
        for name in ("minutes", "max_hours"):
            if getattr(self, name) is not None:
                require_positive(self, name)
        require(
            self.minutes is None or self.max_hours is None or self.minutes <= 60 * self.max_hours,
            f"minutes is {self.minutes}, but no training longer than max_hours ({self.max_hours}) is begun; lower "
            "minutes or raise max_hours",
        )
        require_share(self, "label_dropout")
        require_named(self, "start")
        require(
            self.lora.rank == 0 or self.start is not None,
            f"lora.rank is {self.lora.rank}, but start is null, so there is no model whose weights could be kept; set "
            "start to a model or lora.rank to 0",
        )
        require(self.log_normal[1] > 0, f"log_normal is {list(self.log_normal)}, expected [mean, std] with std above 0")
        require(
            not (self.flip and self.augment.probability > 0 and "mirror" in self.augment.transforms),
            "flip is true, so mirrored images are part of the data, but augment.transforms has mirror, which keeps "
            "them out; set flip to false or remove mirror",
        )
        require(0 <= self.beta2 < 1, f"beta2 is {self.beta2}, expected at least 0 and below 1")
        require(
            self.warmup_images + self.decay_images <= self.images,
            f"warmup_images + decay_images is {self.warmup_images + self.decay_images}, "
            f"expected at most images ({self.images})",
        )


@section
class Autoencoder:
    """The autoencoder between images and latents, and its training: the absolute error of pixels, a perceptual
    distance, the KL divergence of the latents from a standard normal distribution, and the loss of a discriminator of
    patches.  Rombach et al. 2022, Sec. 3.1 and appendix G."""

    width: int
    """Channels at the resolution of the images."""
    multipliers: tuple[int, ...]
    """Channels per resolution, as multiples of width. With n of them latents are 2^(n-1) times lower and narrower than
    images."""
    blocks: int
    """Residual blocks per resolution; the decoder has one more."""
    latent_channels: int
    """Numbers of a latent at each position."""
    groups: int
    """Groups of group normalisation."""
    attention: bool
    """Self-attention at the lowest resolution."""
    images: int
    """Images seen in training: its length."""
    batch_size: int
    """Images per step, over all devices and accumulation steps."""
    lr: float
    """Largest learning rate; it falls to zero over the second half of the training."""
    kl_weight: float
    """Factor of the KL divergence, which is divided by the number of the image's values as the error is."""
    perceptual_weight: float
    """Factor of the perceptual distance, by the pipeline's own feature extractor. 0: none."""
    adversarial_weight: float
    """Factor of the loss by a discriminator of patches, which is trained with the autoencoder. 0: none."""
    seed: int
    """Decides the first weights, the order of images, and the noise of every step."""
    pretrained: str | None
    """Autoencoder that is used instead of training one: the path of a model file in data/starts, such as
    `ddpm import-codec` writes it. null: one is trained, by the settings above."""

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks", "latent_channels", "groups", "images", "batch_size", "lr")
        require_at_least(0, self, "kl_weight", "perceptual_weight", "adversarial_weight", "seed")
        require_named(self, "pretrained")
        require(1 <= len(self.multipliers) <= 12, f"multipliers has {len(self.multipliers)} numbers, expected 1 to 12")
        require(min(self.multipliers) >= 1, f"multipliers is {list(self.multipliers)}, expected numbers of 1 or above")
        require(
            self.width % 8 == 0 and self.width % self.groups == 0,
            f"width is {self.width}, expected a multiple of 8 and of groups ({self.groups})",
        )


def determining(settings: Train) -> dict[str, Any]:
    """Return the settings that change the result of a training, as plain values: all but `max_hours`."""
    return {name: value for name, value in as_dict(settings).items() if name != "max_hours"}
