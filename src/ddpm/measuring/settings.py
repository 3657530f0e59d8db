"""How metrics are measured: `evaluate` in params.yaml."""

from ddpm.settings import require, require_positive, require_share, section


@section
class Evaluate:
    """The protocol of the figures."""

    kid_subset_size: int
    kid_subsets: int
    neighbours: int
    """k of precision and recall."""
    blocks: int
    """Disjoint parts of the generated images, for the spread of FID."""
    memorized_quantile: float
    """A generated image nearer to a training image than this quantile of held-out real ones counts as a copy."""
    augmentation: bool
    """Train the extractor's classifier on real, on generated and on both images, and report its accuracies."""
    bits_per_dim: int
    """Held-out images whose likelihood is measured; 0 leaves it out. Each takes about T + 200 network evaluations."""

    def __post_init__(self) -> None:
        require_positive(self, "kid_subset_size", "kid_subsets", "neighbours", "blocks")
        require(self.bits_per_dim >= 0, f"bits_per_dim is {self.bits_per_dim}, expected 0 or a number of images")
        require_share(self, "memorized_quantile")
