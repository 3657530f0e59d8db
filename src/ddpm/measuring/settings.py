"""Settings of the metrics: `evaluate` in params.yaml."""

from ddpm.settings import require, require_positive, require_share, section


@section
class Evaluate:
    """How metrics are measured."""

    kid_subset_size: int
    """Images in each random subset for KID."""
    kid_subsets: int
    """Number of random subsets whose mean is KID."""
    neighbours: int
    """k of precision, recall, density and coverage, which count images within the distance of the k-th nearest
    neighbour."""
    memorized_quantile: float
    """A generated image is a copy if its distance to a training image is at most this quantile of the distances of
    held-out real images."""
    augmentation: bool
    """Train the extractor's classifier on real images, on generated ones and on both, and report its accuracies."""
    bits_per_dim: int
    """Held-out images whose likelihood is measured; 0: none. Each takes about T + 200 network evaluations."""
    held_out_images: int
    """Largest number of held-out images that generated images and the floor are measured against, and whose distances
    to training images limit copies; a subset of a larger set, by the seed of the generated images. It is in memory."""
    during: int
    """Images for the FID at each grid of samples during the training (tracking.grid_every_images), drawn by `sample`;
    0: none. It changes no result, and costs sample.steps network evaluations per image."""

    def __post_init__(self) -> None:
        require_positive(self, "kid_subset_size", "kid_subsets", "neighbours")
        require(self.bits_per_dim >= 0, f"bits_per_dim is {self.bits_per_dim}, expected 0 or a number of images")
        require(self.during >= 0, f"during is {self.during}, expected 0 or a number of images")
        require_share(self, "memorized_quantile")
        for name, needed in self.images_needed.items():
            require(
                needed <= self.held_out_images,
                f"held_out_images is {self.held_out_images}, but {name} needs at least {needed}; raise the former or "
                "lower the latter",
            )

    @property
    def images_needed(self) -> dict[str, int]:
        """Least number of generated, of training and of held-out images, by the name of the setting that needs them."""
        return {
            "kid_subset_size": self.kid_subset_size,
            "neighbours": self.neighbours + 1,  # an image is not its own neighbour
        }
