"""The limits of the check before a version becomes champion: section `canary` of params.yaml."""

from ddpm.settings import require_at_least, require_positive, section


@section
class Canary:
    """Limits of the check before a version becomes champion: it is served over HTTP by a process of its own."""

    images: int
    """Images that it draws, to be compared with the measured ones by the extractor."""
    max_distance: float
    """Largest kernel distance of these images from the measured ones, in multiples of the largest one of as many
    measured images from the other measured ones."""
    max_start_seconds: float
    """Time until the process answers."""
    max_seconds: float
    """Time of an answer with one image."""
    max_memory_bytes: int
    """Largest memory of the process (resident set); that of a GPU is not counted."""

    def __post_init__(self) -> None:
        require_at_least(16, self, "images")
        require_positive(self, "max_distance", "max_start_seconds", "max_seconds", "max_memory_bytes")
