"""The limits of serving over HTTP: section `serve` of params.yaml."""

from ddpm.settings import require, require_positive, section


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
