"""The settings of the autoencoder of latent diffusion and of its training: section `autoencoder` of params.yaml."""

from ddpm.networks.settings import Codec
from ddpm.settings import require, require_at_least, require_positive, section
from ddpm.training.settings import Augment, Lora, Train

_WARMUP, _DECAY, _HALFLIFE = 0.02, 0.5, 0.02
"""Shares of the length: rising learning rate, falling learning rate, half-life of the averaged weights."""


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

    def __post_init__(self) -> None:
        require_positive(self, "width", "blocks", "latent_channels", "groups", "images", "batch_size", "lr")
        require_at_least(0, self, "kl_weight", "perceptual_weight", "adversarial_weight", "seed")
        require(1 <= len(self.multipliers) <= 12, f"multipliers has {len(self.multipliers)} numbers, expected 1 to 12")
        require(min(self.multipliers) >= 1, f"multipliers is {list(self.multipliers)}, expected numbers of 1 or above")
        require(
            self.width % 8 == 0 and self.width % self.groups == 0,
            f"width is {self.width}, expected a multiple of 8 and of groups ({self.groups})",
        )


def codec_of(settings: Autoencoder) -> Codec:
    """Return the autoencoder in training, whose latents are not standardised yet."""
    return Codec(
        latent_channels=settings.latent_channels,
        widths=tuple(multiplier * settings.width for multiplier in settings.multipliers),
        blocks=settings.blocks,
        groups=settings.groups,
        attention=settings.attention,
        quant=False,
        shift=0.0,
        scale=1.0,
    )


def train_of(settings: Autoencoder) -> Train:
    """Return the settings of the training loop, in which nothing is drawn but images and noise."""
    return Train(
        images=settings.images,
        minutes=None,
        max_hours=None,
        batch_size=settings.batch_size,
        optimizer="adamw",
        lr=settings.lr,
        warmup_images=int(_WARMUP * settings.images),
        decay_images=int(_DECAY * settings.images),
        weight_decay=0.0,
        beta2=0.99,
        grad_clip=1.0,
        time_sampling="uniform",
        log_normal=(-1.2, 1.2),
        label_dropout=0.0,
        flip=False,
        augment=Augment(probability=0.0, transforms=()),
        ema_halflife_images=max(1, int(_HALFLIFE * settings.images)),
        max_nonfinite_steps=10,
        shuffle_shards=16,
        seed=settings.seed,
        start=None,
        lora=Lora(rank=0, alpha=1.0),
    )
