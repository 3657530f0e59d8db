"""How settings are searched: section `search` of params.yaml."""

from ddpm.settings import require, require_at_least, section


@section
class Search:
    """How a search chooses, trains and measures its trials (`python flows/search.py`)."""

    validation: float
    """Share of the training images, more than 0 and below 1, on which trials are measured in place of held-out images.
    Trials train on the others."""
    random: int
    """Number of first trials with random values; later values are proposed from the results so far. No training is
    stopped before as many trials were measured."""
    prune: bool
    """Stop the training of a trial whose FID during the training is worse than the median of the other trials at the
    same number of images."""
    seed: int
    """Of the choice of validation images and of the proposed values."""

    def __post_init__(self) -> None:
        require(
            0 < self.validation < 1, f"validation is {self.validation}, expected a share of more than 0 and below 1"
        )
        require_at_least(1, self, "random")
        require_at_least(0, self, "seed")
