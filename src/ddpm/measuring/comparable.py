"""Whether sets of images can be compared: equal shapes, and enough images for every metric."""

from ddpm.errors import UserError
from ddpm.images import Images
from ddpm.measuring.features.extractor import require_enough_images
from ddpm.measuring.settings import Evaluate


def require_comparable(generated: Images, train: Images, test: Images, *, dim: int, settings: Evaluate) -> None:
    """Raise UserError for images of different shapes, and for a set that is too small for a metric."""
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
