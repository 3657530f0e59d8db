"""The specification of a model: images, classes, process, objective and network, as plain typed values."""

from collections.abc import Mapping
from typing import Any

from torch import Size

from ddpm.degrading.settings import ImageCondition
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.errors import UserError
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.conditioned import Conditional
from ddpm.networks.gan import Generator
from ddpm.networks.settings import CONVENTION, Codec, Convention, Gan, Kind, Network, Text, Tokenizer, Vae
from ddpm.networks.shapes import shapes_of
from ddpm.networks.unet import UNet
from ddpm.networks.vae import Autoencoder
from ddpm.settings import require, section

MAX_CHANNELS = 2**16
MAX_SIZE = 4096
"""Largest height and width of an image in pixels."""
MAX_AUGMENTATION = 256
CODEC = "codec."
"""Prefix of the names of the tensors of an autoencoder that belongs to another model."""

DDPM_SCHEDULE = Schedule(
    name="linear", T=1000, time="discrete", shift=1.0, zero_terminal_snr=False, sigma_min=0.002, sigma_max=80.0
)
DDPM_OBJECTIVE = Objective(
    target="eps",
    weight="simple",
    min_snr_gamma=5.0,
    p2_gamma=1.0,
    sigma_data=0.5,
    learned_variance=False,
    vlb_weight=0.001,
    bounded=False,
)
"""Those of Ho et al. 2020, and the defaults of diffusers' DDPMScheduler; only training reads the other settings."""


@section
class Spec:
    """Everything that is needed to rebuild a model and to sample from it.

    Raises ValueError if channels or size are out of range, or if a model without classes is not unconditional.
    """

    channels: int
    size: int
    """Height and width of an image in pixels."""
    classes: tuple[str, ...]
    """Names; a label is an index into them. Empty: the model knows no labels."""
    unconditional: bool
    """The model can be evaluated without a condition, which guidance needs."""
    schedule: Schedule
    objective: Objective
    network: Network
    convention: Convention
    augmentation: int = 0
    """How many numbers describe the augmentation of a training image; the network takes them as an input. 0: none."""
    method: Kind = "diffusion"
    """Kind of model. Only diffusion reads schedule, objective, network, convention and augmentation."""
    vae: Vae | None = None
    """Not None exactly for method vae."""
    gan: Gan | None = None
    """Not None exactly for method gan."""
    text: Text | None = None
    """How captions become the condition of the network; None: the model knows no captions."""
    tokenizer: Tokenizer | None = None
    """Not None exactly with `text`."""
    codec: Codec | None = None
    """The autoencoder whose latents a diffusion model draws; None: it draws pixels. With method autoencoder the model
    itself."""
    image: ImageCondition | None = None
    """How an image is degraded to become its condition; None: the model is given no picture."""

    def __post_init__(self) -> None:
        for name, most in (("channels", MAX_CHANNELS), ("size", MAX_SIZE)):
            value = getattr(self, name)
            require(1 <= value <= most, f"{name} is {value}, expected 1 to {most}")
        require(
            0 <= self.augmentation <= MAX_AUGMENTATION,
            f"augmentation is {self.augmentation}, expected 0 to {MAX_AUGMENTATION}",
        )
        require(
            self.unconditional or self.is_conditioned,
            "unconditional is false, but a model without classes, captions or pictures has no condition; expected true",
        )
        require(
            (self.text is None) == (self.tokenizer is None),
            "only one of text and tokenizer is set, expected both or none",
        )
        require(
            self.text is None or (self.method == "diffusion" and not self.classes),
            "text is set, expected a diffusion model without classes",
        )
        require(
            self.image is None or (self.method == "diffusion" and not self.classes and self.text is None),
            "image is set, expected a diffusion model without classes and captions",
        )
        require(
            self.image is None or self.codec is None,
            "image and codec are set, but a picture is joined to the pixels; expected one of them",
        )
        fault = None if self.image is None else self.image.fault(channels=self.channels, size=self.size)
        require(fault is None, str(fault))
        if self.text is not None and self.tokenizer is not None:
            require(
                self.tokenizer.size <= self.text.vocabulary,
                f"the tokenizer has {self.tokenizer.size} tokens, expected up to text.vocabulary "
                f"({self.text.vocabulary})",
            )
        self._require_codec_fits()
        for name in ("vae", "gan"):
            is_there = getattr(self, name) is not None
            require(
                is_there == (self.method == name),
                f"method is {self.method}, and section {name} is {'set' if is_there else 'missing'}",
            )

    def _require_codec_fits(self) -> None:
        if self.codec is None:
            require(self.method != "autoencoder", "method is autoencoder, and section codec is missing")
            return
        require(
            self.method == "autoencoder" or (self.method == "diffusion" and not self.augmentation),
            f"codec is set, expected method diffusion without augmentation, but method is {self.method}",
        )
        require(
            self.method == "diffusion" or not self.is_conditioned,
            "method is autoencoder, expected neither classes nor captions",
        )
        require(self.image is None, "codec is set, expected no section image, which joins pixels to pixels")
        require(
            self.method != "diffusion" or not (self.objective.bounded or self.objective.learned_variance),
            "objective.bounded or learned_variance is true, but latents have neither bounds nor levels; expected false",
        )
        require(
            self.size % self.codec.factor == 0,
            f"size is {self.size}, expected a multiple of {self.codec.factor}, the factor of the autoencoder",
        )

    @property
    def is_conditioned(self) -> bool:
        """Whether the model takes labels, captions or pictures."""
        return bool(self.classes) or self.text is not None or self.image is not None

    @property
    def reading(self) -> tuple[Tokenizer, int] | None:
        """Tokenizer and number of tokens: models in which both are equal can be given the same tokens; None without
        captions."""
        return None if self.text is None or self.tokenizer is None else (self.tokenizer, self.text.length)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise from which one sample is drawn: that of an image, or of a latent."""
        if self.vae is not None:
            return self.vae.latent_channels, *([self.vae.latent_size] * 2 if self.vae.latent_size > 1 else [])
        if self.gan is not None:
            return (self.gan.latent,)
        if self.codec is not None:
            return self.codec.latent_channels, *[self.size // self.codec.factor] * 2
        return self.channels, self.size, self.size

    @property
    def noise_size(self) -> int:
        """Height and width of what diffuses: of images or of latents."""
        return self.size // self.codec.factor if self.codec is not None else self.size

    @property
    def draws_latents(self) -> bool:
        """Whether what the model draws are latents, which its autoencoder decodes."""
        return self.method == "diffusion" and self.codec is not None


def require_diffusion(spec: Spec, purpose: str) -> None:
    """Raise UserError unless the model is a diffusion model. `purpose` begins the sentence."""
    if spec.method != "diffusion":
        kind = {
            "vae": "a VAE, which draws in one evaluation",
            "gan": "a GAN, which draws in one evaluation",
            "autoencoder": "an autoencoder, which draws nothing",
        }[spec.method]
        raise UserError(f"{purpose} needs noise levels, but this model is {kind} and has none; use a diffusion model")


def require_pixels(spec: Spec, purpose: str) -> None:
    """Raise UserError if the model draws latents. `purpose` begins the sentence."""
    if spec.draws_latents:
        raise UserError(
            f"{purpose} needs a model of pixels, but this model draws latents, which its autoencoder decodes"
        )


def fault_of_base(base: Spec, spec: Spec) -> str | None:
    """Return why a model cannot draw the pictures that the model of `spec` enlarges, as the end of a sentence; None if
    it can."""
    if spec.image is None or "super-resolution" not in spec.image.degradations:
        return "needs a model that is given pictures, trained for super-resolution"
    size = spec.size // spec.image.factor
    if (base.channels, base.size) != (spec.channels, size):
        return (
            f"draws {base.size}x{base.size} pixels (channels: {base.channels}), expected {size}x{size} (channels: "
            f"{spec.channels})"
        )
    if base.image is not None or base.codec is not None:
        return "is given pictures or draws latents, expected a model that draws pixels of classes, captions or neither"
    return None


def architecture_of(spec: Spec) -> Mapping[str, Any]:
    """Return the arguments of the `UNet` of a diffusion model."""
    channels, size, _ = spec.noise_shape
    return vars(spec.network) | {
        "channels": channels,
        "out_channels": (2 if spec.objective.learned_variance else 1) * channels,
        "size": size,
        "classes": len(spec.classes),
        "augmentation": spec.augmentation,
        "convention": spec.convention,
        "text": spec.text,
        "vocabulary": spec.tokenizer.size if spec.tokenizer else 0,
        "picture": spec.image.planes(spec.channels) if spec.image else 0,
    }


def build_network(spec: Spec) -> Conditional:
    """Return the untrained network of the model: a U-Net, an encoder with its decoder, or a generator."""
    if spec.method == "autoencoder":
        return build_codec(spec)
    images = {"channels": spec.channels, "size": spec.size, "classes": len(spec.classes)}
    if spec.vae is not None:
        return Autoencoder(**images, **vars(spec.vae))
    if spec.gan is not None:
        return Generator(**images, width=spec.gan.width, latent=spec.gan.latent)
    return UNet(**architecture_of(spec))


def spec_of_autoencoder(*, channels: int, size: int, codec: Codec) -> Spec:
    """Return the specification of an autoencoder of such images, whose other sections nothing reads."""
    return Spec(
        channels=channels,
        size=size,
        classes=(),
        unconditional=True,
        schedule=DDPM_SCHEDULE,
        objective=DDPM_OBJECTIVE,
        network=_NO_NETWORK,
        convention=CONVENTION,
        method="autoencoder",
        codec=codec,
    )


_NO_NETWORK = Network(
    patch=1,
    width=8,
    multipliers=(1,),
    blocks=1,
    attention=(),
    head_channels=8,
    dropout=0.0,
    embedding="add",
    resample="conv",
    groups=None,
)


def build_codec(spec: Spec) -> AutoencoderKL:
    """Return the untrained autoencoder of a model that has one."""
    assert spec.codec is not None
    return AutoencoderKL(channels=spec.channels, **vars(spec.codec))


_LEAST_TENSORS = 8
"""Tensors, at least, of a block at one resolution and of a layer of a text encoder."""


def shapes_of_weights(spec: Spec, *, tensors: int) -> dict[str, Size]:
    """Return the shape of each of the network's weights, by name, without allocating them; of an autoencoder beside it
    after CODEC.

    Raise ValueError, ArithmeticError, TypeError or RuntimeError for a network too large for a file of `tensors`
    tensors.
    """
    depths = {"text encoder": (0 if spec.text is None else spec.text.layers, "layers")}
    if spec.gan is None:
        levels = 1 if spec.vae is not None else len(spec.network.multipliers)
        depths[spec.method] = levels * (spec.vae or spec.network).blocks, "blocks"
    if spec.codec is not None:
        depths["codec"] = len(spec.codec.widths) * spec.codec.blocks, "blocks"
    for part, (depth, layers) in depths.items():
        require(
            _LEAST_TENSORS * depth <= tensors,
            f"the {part} has {depth} {layers}, but the file has {tensors} tensors",
        )
    shapes = shapes_of(lambda: build_network(spec))
    if spec.draws_latents:
        shapes |= {f"{CODEC}{name}": shape for name, shape in shapes_of(lambda: build_codec(spec)).items()}
    return shapes
