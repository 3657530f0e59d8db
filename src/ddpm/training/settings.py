"""The optimizer and its schedule: `train` in params.yaml."""

from typing import Literal

from ddpm.settings import require, require_at_least, require_positive, require_share, section


@section
class Train:
    """The optimizer, what a step sees, and how long training runs; every length is in images seen."""

    images: int
    batch_size: int
    """Global: over all devices and accumulation steps."""
    optimizer: Literal["adamw", "muon"]
    """muon: orthogonal moves of the weight matrices, as large as AdamW's, which keeps all other parameters."""
    lr: float
    warmup_images: int
    """The learning rate rises linearly over the first so many."""
    decay_images: int
    """It falls to zero, along a cosine, over the last so many."""
    weight_decay: float
    beta2: float
    """AdamW's second decay rate."""
    grad_clip: float
    """Largest gradient norm."""
    time_sampling: Literal["uniform", "importance", "log_normal"]
    """Times t of a step. uniform: over the process (variance_exploding: in log sigma); importance: where the loss is
    large."""
    log_normal: tuple[float, float]
    """Mean and standard deviation of ln sigma, for time_sampling log_normal."""
    label_dropout: float
    """Share of labels hidden from the network; guidance needs it above 0."""
    flip: bool
    """Mirror half of the training images, left to right; wrong for writing."""
    ema_halflife_images: int
    max_nonfinite_steps: int
    """Steps in a row with a non-finite loss or gradient that are skipped before training stops."""
    shuffle_shards: int
    """Where the data have several shards: so many of them are mixed at a time, over all machines together. More mix
    better and take more room in the caches; a multiple of the number of machines lets each read only its share."""
    seed: int

    def __post_init__(self) -> None:
        require_positive(self, "images", "batch_size", "lr", "grad_clip", "ema_halflife_images", "shuffle_shards")
        require_at_least(0, self, "warmup_images", "decay_images", "weight_decay", "max_nonfinite_steps", "seed")
        require_share(self, "label_dropout")
        require(self.log_normal[1] > 0, f"log_normal is {list(self.log_normal)}, expected [mean, std] with std above 0")
        require(0 <= self.beta2 < 1, f"beta2 is {self.beta2}, expected 0 or above and below 1")
        require(
            self.warmup_images + self.decay_images <= self.images,
            f"warmup_images + decay_images is {self.warmup_images + self.decay_images}, "
            f"expected at most images ({self.images})",
        )
