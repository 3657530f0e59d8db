"""The limits of serving over HTTP and of its watch: sections `serve` and `watch` of params.yaml."""

from ddpm.settings import require, require_at_least, require_positive, require_share, section


@section
class Serve:
    """Limits of calls over HTTP. A registered version stores the limits of its registration. A change reruns no stage.

    The unit of work is network evaluations times pixels (height times width); guidance needs two evaluations.
    """

    max_work: int
    """Work of one call; a call with more gets the answer 429."""
    max_work_together: int
    """Work of all running calls; a new call that needs more than half of what is free gets the answer 429."""
    max_seconds: float
    """Time of one call; then it ends with the answer 504."""
    max_body_bytes: int
    """Size of the body of a call to `ddpm serve`; a larger body gets the answer 413."""

    def __post_init__(self) -> None:
        require_positive(self, "max_work", "max_work_together", "max_seconds", "max_body_bytes")
        require(
            2 * self.max_work <= self.max_work_together,
            f"max_work_together is {self.max_work_together}, of which one call gets at most half; "
            f"set it to {2 * self.max_work} or more",
        )


@section
class Watch:
    """How `ddpm serve` watches the answers of the champion that it follows. Pictures that people send are not kept."""

    share: float
    """Share of the answers with new images whose features are computed; 0: the champion is not watched."""
    images: int
    """Last images of which the Fréchet distance from the measured ones is taken."""
    max_distance: float
    """Largest Fréchet distance, in multiples of the largest one of as many measured images from others of them."""
    max_slower: float
    """Largest median time of an image, in multiples of the time before the version became champion."""
    max_error_share: float
    """Largest share of the last 200 calls that ended with an error of the version (status 500)."""

    def __post_init__(self) -> None:
        require_share(self, "share", "max_error_share")
        require_at_least(100, self, "images")
        require_positive(self, "max_distance", "max_slower")
