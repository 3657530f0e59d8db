"""The autoencoder of latent diffusion, as section `autoencoder` of params.yaml asks for it."""

from ddpm.networks.settings import Codec
from ddpm.training.settings import Augment, Autoencoder, Lora, Train

_WARMUP, _DECAY, _HALFLIFE = 0.02, 0.5, 0.02
"""Shares of the length: rising learning rate, falling learning rate, half-life of the averaged weights."""


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
