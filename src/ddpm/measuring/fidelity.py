"""torch-fidelity: FID, Inception score, KID, precision and recall, and the Inception network.

Features are computed once and passed to torch-fidelity's functions of features, so that the generated images, their
blocks and the floor share them. Its own extraction and its cache, whose key is a name, not the content, are not used.
"""

import hashlib
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddpm.compute.hardware import choose_device
from ddpm.compute.processes import least_of
from ddpm.compute.settings import Runtime
from ddpm.data.reading.dataset import read_split
from ddpm.errors import UserError
from ddpm.generation.generate import balanced_labels, generate
from ddpm.generation.recipe import load_model, recipe_of
from ddpm.images import Images
from ddpm.measuring.features import extractor as extractors
from ddpm.measuring.features.extractor import Described, FeatureExtractor, describe, require_enough_images
from ddpm.measuring.features.subset import draw_rows
from ddpm.measuring.memorization import CopiesInEveryWay, find_copies_in_every_way
from ddpm.measuring.record import Metrics, Protocol, Record, Spread
from ddpm.measuring.settings import Evaluate
from ddpm.seeding import seed_of
from ddpm.settings import as_dict

HASH_BYTES = 2**24


def load_extractor(path: Path, device: torch.device) -> FeatureExtractor:
    """Load the extractor file: the small extractor, or Inception with the weights that the file names.

    Raises UserError for a file that is not an extractor, and for weights that are missing or have another sha256.
    """
    header = extractors.read_header(path)
    if header["kind"] != "inception":
        return extractors.load(path, device)
    weights = Path(header["weights"])
    extractors.require_inception_weights(weights)
    from torch_fidelity.utils import create_feature_extractor

    network = create_feature_extractor(
        extractors.INCEPTION,
        ["2048", "logits_unbiased"],
        cuda=False,
        **_known(feature_extractor_weights_path=str(weights), verbose=False),
    )
    return Inception(network.to(device))


@dataclass(frozen=True, eq=False)
class Inception:
    """The network of the original FID, converted from TensorFlow by torch-fidelity."""

    network: nn.Module
    name: str = extractors.INCEPTION
    sha256: str = extractors.INCEPTION_SHA256
    dim: int = extractors.INCEPTION_DIM
    names_classes: bool = True

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 images to features and logits; grey images become RGB with three equal channels."""
        return self.network(images.expand(-1, 3, -1, -1))


@dataclass(frozen=True)
class Compared:
    """What takes time or memory in the measurement of generated images; the metrics follow from it quickly."""

    made: Described
    """The generated images."""
    reference: Described
    """The held-out images."""
    real: Described
    """Training images for the floor: as many as there are generated images, if there are so many."""
    copies: CopiesInEveryWay
    reference_hash: str
    """sha256 of the held-out images."""


def compare_sets(
    generated: Images,
    train: Images,
    test: Images,
    *,
    extractor: FeatureExtractor,
    settings: Evaluate,
    seed: int,
    device: torch.device,
    progress: bool,
    together: bool = False,
) -> Compared:
    """Describe the images, uint8 [N,C,H,W], and find copies among them, in one pass over the training images.

    `seed`, that of the generated images, decides which held-out images are used if there are more than
    `evaluate.held_out_images`, and which training images are those of the floor. Neither the features nor the pixels of
    all training images are in memory at any time. `together`: all processes of the stage call it, share the work, and
    return the same.
    Raises UserError for generated images of another shape than the real ones, and for a set with too few images.
    """
    held_out = test
    if len(test) > settings.held_out_images:
        rows = draw_rows(settings.held_out_images, len(test), seed=seed_of("held-out", seed))
        held_out = test[np.sort(rows)]
    _require_comparable(generated, train, held_out, dim=extractor.dim, settings=settings)
    made, reference = (
        describe(extractor, images, device=device, progress=progress, what=what, together=together)
        for images, what in ((generated, "generated"), (held_out, "held-out"))
    )
    # As many real images as generated ones, since FID depends on their number.
    floor = draw_rows(min(len(generated), len(train)), len(train), seed=seed_of("floor", seed))
    real = _Taken(floor, like=made)

    def features_of(start: int, images: np.ndarray) -> np.ndarray:
        described = describe(extractor, images, device=device, progress=False, what="training")
        real.take(start, described)
        return described.features.numpy()

    copies = find_copies_in_every_way(
        (generated, held_out, train),
        (made.features.numpy(), reference.features.numpy()),
        features_of,
        quantile=settings.memorized_quantile,
        device=device,
        progress=progress,
        together=together,
    )
    return Compared(made, reference, real.described(together=together), copies, _hash(held_out))


def measure_images(
    generated: Images,
    train: Images,
    test: Images,
    *,
    extractor: FeatureExtractor,
    settings: Evaluate,
    drawing: Mapping[str, Any],
    seed: int,
    device: torch.device,
    progress: bool,
) -> tuple[Record, CopiesInEveryWay]:
    """Return metrics of generated images against held-out real ones (test), and the copies among them.

    All images are uint8 [N,C,H,W]; `drawing` and `seed` are how the generated ones were drawn.
    Raises UserError as `compare_sets` does.
    """
    compared = compare_sets(
        generated, train, test, extractor=extractor, settings=settings, seed=seed, device=device, progress=progress
    )
    return record_of(compared, extractor=extractor, settings=settings, drawing=drawing, seed=seed), compared.copies


def record_of(
    compared: Compared, *, extractor: FeatureExtractor, settings: Evaluate, drawing: Mapping[str, Any], seed: int
) -> Record:
    """Return the metrics with their floor and protocol; the arguments are those of `measure_images`."""
    import torch_fidelity

    made, reference, real, copies = compared.made, compared.reference, compared.real, compared.copies
    made_scores, real_scores = (
        scores(images, reference, settings=settings, names_classes=extractor.names_classes) for images in (made, real)
    )
    return Record(
        metrics=Metrics(
            **made_scores,
            memorized_share=copies.pixels.share,
            memorized_share_features=copies.features.share,
            memorized_share_shifted=copies.shifted.share,
            memorized_share_mirrored=copies.mirrored.share,
            memorized_share_half=copies.half.share,
        ),
        spread=_spread(made, reference, blocks=settings.blocks),
        floor=Metrics(
            **real_scores,
            memorized_share=copies.pixels.held_out_share,
            memorized_share_features=copies.features.held_out_share,
            memorized_share_shifted=copies.shifted.held_out_share,
            memorized_share_mirrored=copies.mirrored.held_out_share,
            memorized_share_half=copies.half.held_out_share,
        ),
        floor_n=len(real),
        protocol=Protocol(
            drawing=dict(drawing),
            seed=seed,
            n=len(made),
            reference_hash=compared.reference_hash,
            reference_n=len(reference),
            extractor=extractor.name,
            extractor_hash=extractor.sha256,
            torch_fidelity=torch_fidelity.__version__,
            kid_subset_size=settings.kid_subset_size,
            kid_subsets=settings.kid_subsets,
            neighbours=settings.neighbours,
            memorized_quantile=settings.memorized_quantile,
        ),
    )


def remeasure(
    model: Path,
    *,
    protocol: Mapping[str, Any],
    prepared: Path,
    extractor: Path,
    evaluate: Evaluate,
    runtime: Runtime,
) -> dict[str, Any]:
    """Measure another model's images and return the record, in the form of reports/metrics.json.

    The images are drawn by the recipe in the model file; their number and the seed are those of `protocol`.
    Raises UserError if the file has no recipe.
    """
    device = choose_device(runtime.device)
    other = load_model(model, device)
    recipe, n, seed, classes = recipe_of(other), protocol["n"], protocol["seed"], len(other.spec.classes)
    if recipe is None:
        raise UserError(f"{model} has no recipe for drawing its images; register it again with `dvc repro`")
    images = generate(
        other,
        recipe,
        n=n,
        seed=seed,
        condition=balanced_labels(n, classes, seed) if classes else None,
        batch=runtime.sample_batch,
        progress=runtime.progress,
    )
    record, *_ = measure_images(
        images.numpy(),
        read_split(prepared, "train", runtime).images,
        read_split(prepared, "test", runtime).images,
        extractor=load_extractor(extractor, device),
        settings=evaluate,
        drawing=as_dict(recipe),
        seed=seed,
        device=device,
        progress=runtime.progress,
    )
    return record.to_json()


def scores(
    images: Described, reference: Described, *, settings: Evaluate, names_classes: bool
) -> dict[str, float | None]:
    """Return the metrics of group `quality`, with spreads, of images against a reference; the score needs classes."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    isc = isc_features_to_metric(images.logits) if names_classes else {}
    kid = kid_features_to_metric(
        images.features,
        reference.features,
        **_known(kid_subset_size=settings.kid_subset_size, kid_subsets=settings.kid_subsets, verbose=False),
    )
    prc = prc_features_to_metric(
        images.features,
        reference.features,
        **_known(prc_neighborhood=settings.neighbours, save_cpu_ram=True, verbose=False),
    )
    return {
        "fid": frechet_distance(images, reference),
        "inception_score": isc.get(KEY_METRIC_ISC_MEAN),
        "inception_score_spread": isc.get(KEY_METRIC_ISC_STD),
        "kid": kid[KEY_METRIC_KID_MEAN],
        "kid_spread": kid[KEY_METRIC_KID_STD],
        "precision": prc[KEY_METRIC_PRECISION],
        "recall": prc[KEY_METRIC_RECALL],
    }


def frechet_distance(images: Described, reference: Described) -> float:
    """Return FID, at least 0: rounding can make the distance of equal sets slightly negative."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = (fid_features_to_statistics(described.features) for described in (images, reference))
    return max(0.0, fid_statistics_to_metric(a, b, verbose=False)[KEY_METRIC_FID])


def _spread(made: Described, reference: Described, *, blocks: int) -> Spread:
    n, dim = len(made) // blocks, made.features.shape[1]
    if blocks < 2:
        return Spread(fid=None, blocks=blocks, n=n, reason="one block has no spread; set evaluate.blocks to 2 or more")
    if n <= dim:
        reason = f"a block of {n} images is too small for FID with {dim} features; generate more or use fewer blocks"
        return Spread(fid=None, blocks=blocks, n=n, reason=reason)
    fids = [frechet_distance(made[k * n : (k + 1) * n], reference) for k in range(blocks)]
    return Spread(fid=statistics.stdev(fids), blocks=blocks, n=n, reason=None)


class _Taken:
    """The features and logits of some rows of a set, taken while pieces of the set are described."""

    def __init__(self, rows: np.ndarray, *, like: Described) -> None:
        self._order = torch.from_numpy(np.argsort(rows))
        self._rows = rows[self._order]
        self._parts = [torch.full((len(rows), part.shape[1]), math.inf) for part in (like.features, like.logits)]

    def take(self, start: int, piece: Described) -> None:
        """Take what belongs to these rows from the rows from `start` on."""
        found = slice(*np.searchsorted(self._rows, [start, start + len(piece)]))
        at, rows = self._order[found], torch.from_numpy(self._rows[found] - start)
        for part, given in zip(self._parts, (piece.features, piece.logits), strict=True):
            part[at] = given[rows]

    def described(self, *, together: bool) -> Described:
        """Return the rows in the order in which they were given; `together`: all processes took their part of them."""
        return Described(*(map(least_of, self._parts) if together else self._parts))


def _require_comparable(generated: Images, train: Images, test: Images, *, dim: int, settings: Evaluate) -> None:
    if not generated.shape[1:] == test.shape[1:] == train.shape[1:]:
        made, real = ("x".join(map(str, images.shape[1:])) for images in (generated, test))
        raise UserError(f"the generated images are {made}, the real ones {real}; train a model on these data first")
    require_enough_images(dim, {"generated": len(generated), "training": len(train), "held-out": len(test)})
    fewest = min(len(generated), len(train), len(test))
    for name, needed in settings.images_needed.items():
        if needed > fewest:
            value = getattr(settings, name)
            raise UserError(
                f"evaluate.{name} is {value}, but the smallest of the generated, training and held-out sets has "
                f"{fewest} images; set it to at most {fewest - (needed - value)} or have more images"
            )


def _known(**options: Any) -> dict[str, Any]:
    """Return the options. Raises UserError for unknown ones, which torch-fidelity would ignore."""
    from torch_fidelity.defaults import DEFAULTS
    from torch_fidelity.version import __version__

    if unknown := sorted(options.keys() - DEFAULTS.keys()):
        raise UserError(
            f"torch-fidelity {__version__} does not know its options {', '.join(unknown)}; install the version in "
            "requirements.lock"
        )
    return options


def _hash(images: Images) -> str:
    """Return the sha256 of shape and pixels, which are read in pieces."""
    digest = hashlib.sha256(str(images.shape).encode())
    step = max(1, HASH_BYTES // images[0].nbytes)
    for start in range(0, len(images), step):
        digest.update(images[start : start + step].tobytes())
    return digest.hexdigest()
