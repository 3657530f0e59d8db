"""Published feature extractors by weights in a local file: Inception, DINOv2 and CLIP.

The classes of torch-fidelity resize and normalise the images. Their constructors fetch weights or code, or run what is
in a file, so the networks are created here, and nothing is fetched.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.measuring.features.description import Description
from ddpm.measuring.features.dinov2 import network_of
from ddpm.measuring.features.extractor import packed
from ddpm.measuring.features.settings import Kind
from ddpm.measuring.features.weights_file import read_tensors, require_sha256, sha256_of, verified_content

if TYPE_CHECKING:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

AT_ONCE = 32
"""Images in the network at a time, which limits its memory; it changes metrics by rounding only."""
DTYPE = "float32"
RESIZING = "bilinear as in TensorFlow 1, without antialiasing, to {size}x{size} pixels"

INCEPTION = "inception-v3-compat"
INCEPTION_DIM = 2048
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""sha256 of INCEPTION_FILE, the weights of the original FID (Heusel et al. 2017)."""

DINOV2 = {
    (384, 12): "dinov2-vit-s-14",
    (768, 12): "dinov2-vit-b-14",
    (1024, 24): "dinov2-vit-l-14",
    (1536, 40): "dinov2-vit-g-14",
}
"""Names in torch-fidelity by width and number of blocks."""

CLIP = {
    (768, 32, 224): "clip-vit-b-32",
    (768, 16, 224): "clip-vit-b-16",
    (1024, 14, 224): "clip-vit-l-14",
    (1024, 14, 336): "clip-vit-l-14-336px",
}
"""Names in torch-fidelity by width, pixels per side of a patch, and pixels per side of an image."""


@dataclass(frozen=True, eq=False)
class PretrainedExtractor:
    """A published network."""

    network: nn.Module
    """Maps uint8 [N,3,H,W] to the features, and for Inception to the logits, too."""
    kind: Kind
    description: Description
    dim: int
    weights: Path

    @property
    def names_classes(self) -> bool:
        return self.kind == "inception"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 [N,C,H,W] to features and logits (only Inception's have classes); grey images become RGB."""
        parts = [self.network(part.expand(-1, 3, -1, -1)) for part in images.split(AT_ONCE)]
        features, *logits = (torch.cat(outputs) for outputs in zip(*parts, strict=True))
        return features, logits[0] if logits else features.new_zeros(len(features), 0)

    def packed(self) -> bytes:
        """Return the content of the extractor's file: it names the weights, which are not copied."""
        header = {"kind": self.kind, "dim": self.dim, "weights": str(self.weights)}
        return packed(header | self.description.to_json(), {})


def load_pretrained(
    kind: Kind, weights: Path, device: torch.device | str = "cpu", *, sha256: str | None = None
) -> PretrainedExtractor:
    """Load a published network from a file of weights; `sha256` is that of the weights an extractor was made with.

    Raises UserError for a file that is missing, unsafe, of another network, or changed.
    """
    found = sha256_of(weights, key=f"features.{kind}_weights")
    if kind == "inception":
        require_sha256(weights, found, expected=INCEPTION_SHA256, of=f"{INCEPTION_FILE}; download it again")
    if sha256 is not None:
        of = "the extractor; put that file back, or make the extractor again with `dvc repro -f -s features`"
        require_sha256(weights, found, expected=sha256, of=of)
    build = _BUILDERS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated, but the files of CLIP are that
        network, size, dim = build(weights, found)
    layer = ", ".join(network.get_requested_features_list())
    description = Description(
        name=network.get_name(), layer=layer, resizing=RESIZING.format(size=size), dtype=DTYPE, sha256=found
    )
    return PretrainedExtractor(network.to(device).eval().requires_grad_(False), kind, description, dim, weights)


_Built = tuple["FeatureExtractorBase", int, int]
"""The network, the pixels per side to which it resizes images, and the number of its features."""


def _inception(weights: Path, sha256: str) -> _Built:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # torch-fidelity unpickles what it gets without protection: the bytes that were verified, not the path.
    network = FeatureExtractorInceptionV3(
        INCEPTION, ["2048", "logits_unbiased"], feature_extractor_weights_path=verified_content(weights, sha256)
    )
    return network, network.INPUT_IMAGE_SIZE, INCEPTION_DIM


def _dinov2(weights: Path, sha256: str) -> _Built:
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    tensors = read_tensors(weights)
    try:
        model = network_of(tensors)
    except (KeyError, RuntimeError, IndexError):
        model = None
    name = model and DINOV2.get((model.norm.weight.shape[0], len(model.blocks)))
    if model is None or name is None:
        raise UserError(
            f"{weights} has no network of DINOv2 that is known here; expected the weights of "
            f"{_one_of(DINOV2)}, without registers, such as dinov2_vits14_pretrain.pth"
        )

    class Local(FeatureExtractorDinoV2):
        def __init__(self, network: nn.Module) -> None:
            # Not that of the class above, which runs code from the network.
            FeatureExtractorBase.__init__(self, name, ["dinov2"])
            self.feature_extractor_internal_dtype = torch.float32
            self.model = network.to(torch.float32)

    return Local(model), Local.INPUT_IMAGE_SIZE, model.norm.weight.shape[0]


def _clip(weights: Path, sha256: str) -> _Built:
    from torch_fidelity import feature_extractor_clip as clip
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    # The published files are TorchScript archives, which can run code; those with a known sha256 are harmless.
    if sha256 in {each["hash"] for each in clip.MODEL_METADATA.values()}:
        tensors = torch.jit.load(verified_content(weights, sha256), map_location="cpu").state_dict()
    else:
        tensors = read_tensors(weights)
    try:
        # Only the part for images: torch-fidelity needs the shape of the part for texts, which is that of the former.
        own = {key: value for key, value in tensors.items() if key.startswith("visual.")}
        model = clip.build_model(own | {"text_projection": own["visual.proj"]}, torch.float32)
        kernel, size = model.visual.conv1.weight, model.visual.input_resolution
        name = CLIP.get((kernel.shape[0], kernel.shape[-1], size))
    except (KeyError, RuntimeError, IndexError, ZeroDivisionError, ValueError):
        name = None
    if name is None:
        raise UserError(
            f"{weights} has no network of CLIP that is known here; expected the weights of {_one_of(CLIP)}, in the "
            "file that OpenAI published or as a file of its tensors"
        )

    class Local(clip.FeatureExtractorCLIP):
        def __init__(self, model: nn.Module) -> None:
            # Not that of the class above, which fetches weights or runs what is in a file.
            FeatureExtractorBase.__init__(self, name, ["clip"])
            self.feature_extractor_internal_dtype = torch.float32
            self.model, self.resolution = model, size

    return Local(model), size, model.visual.output_dim


_BUILDERS: dict[Kind, Callable[[Path, str], _Built]] = {"inception": _inception, "dinov2": _dinov2, "clip": _clip}


def _one_of(names: dict[Any, str]) -> str:
    return " or ".join(names.values())
