"""The limits of the data: `validate` in params.yaml."""

from ddpm.settings import require, require_at_least, require_positive, require_share, section


@section
class Validate:
    """The limits that the prepared data must meet."""

    min_train_images: int
    """Smallest number of images to train on."""
    min_test_images: int
    """Smallest number of held-out images, with which FID and the floor compare."""
    max_rejected_share: float
    """Largest share of files that could not be read or were refused; data/prepared/rejected.csv has the reasons."""
    max_test_duplicates: int
    """Largest number of images in test whose pixels are also in train."""
    min_class_share: float
    """Smallest size of a class, as a share of the size that it has in a perfectly balanced set."""
    max_upscaled_share: float
    """Largest share of images with a side shorter than the prepared size, since enlarging blurs them."""
    max_uncaptioned_share: float
    """Largest share of images without a caption, if data.captions is true: missing, empty, or not UTF-8."""
    max_caption_characters: int
    """Largest length of a caption, if data.captions is true."""
    brightness: tuple[float, float]
    """Lowest and highest mean brightness of an image, in 0..255."""
    sample_rows: int
    """Number of files whose rows Great Expectations gets; of a larger set it checks a seeded sample of this size and
    exact counters of all files."""

    def __post_init__(self) -> None:
        require_at_least(0, self, "min_train_images", "min_test_images", "max_test_duplicates")
        require_positive(self, "sample_rows", "max_caption_characters")
        require_share(self, "max_rejected_share", "min_class_share", "max_upscaled_share", "max_uncaptioned_share")
        low, high = self.brightness
        require(0 <= low < high <= 255, f"brightness is {list(self.brightness)}, expected [low, high] in 0..255")
