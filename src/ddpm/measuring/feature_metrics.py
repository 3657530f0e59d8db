"""All metrics that follow from features and logits: those of a set of images against reference images."""

from ddpm.measuring.classes_covered import classes_covered
from ddpm.measuring.density_coverage import density_and_coverage
from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import fid_and_fid_infinity
from ddpm.measuring.inception_score import inception_score
from ddpm.measuring.kernel_distance import kid
from ddpm.measuring.manifold import precision_and_recall
from ddpm.measuring.measured import Measured
from ddpm.measuring.settings import Evaluate


def measured(
    images: Described,
    reference: Described,
    *,
    settings: Evaluate,
    names_classes: bool,
    seed: int,
    rough: bool = False,
) -> dict[str, Measured | None]:
    """Return metrics of group `quality` by their names in the catalogue, with intervals and influences.

    `images` and `reference` are those of N generated images and of M held-out real ones; `names_classes` says whether
    the logits belong to classes of images, without which a metric of classes is None; `seed` decides about random
    subsets. Equal arguments give equal bits. The labels of both sets should be known (`Described.of_classes`) if images
    of each class were drawn in fixed numbers: intervals are then smaller, and FID at infinity has less bias to remove.
    `rough`: the same values in a third of the time, with intervals that are up to twice as wide.
    """
    seed_of_halves = None if rough else seed
    density, coverage = density_and_coverage(images, reference, neighbours=settings.neighbours, seed=seed_of_halves)
    covered = classes_covered(images.logits, reference.logits, seed=seed) if names_classes else None
    precision, recall = precision_and_recall(images, reference, neighbours=settings.neighbours, seed=seed_of_halves)
    fid, fid_infinity = fid_and_fid_infinity(images, reference, rough=rough)
    return {
        "fid": fid,
        "fid_infinity": fid_infinity,
        "inception_score": inception_score(images) if names_classes else None,
        "kid": kid(images, reference, settings, rough=rough),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "classes_covered": covered,
    }
