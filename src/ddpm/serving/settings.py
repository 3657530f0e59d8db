"""Bounds of work over HTTP: `serve` in params.yaml."""

from ddpm.settings import require, require_positive, section


@section
class Serve:
    """Bounds of work over HTTP; a registered version carries those that it was made with. No stage reruns for them.

    Work is network evaluations times pixels (high times wide); guidance evaluates twice.
    """

    max_work: int
    """Of one call; a larger one is answered 429."""
    max_work_together: int
    """Of all calls under way; a new one gets at most half of what is free of it, or is answered 429."""
    max_seconds: float
    """Of one call, which then ends with 504."""
    max_body_bytes: int
    """Of a call's body, in `ddpm serve`; a larger one is answered 413."""

    def __post_init__(self) -> None:
        require_positive(self, "max_work", "max_work_together", "max_seconds", "max_body_bytes")
        require(
            2 * self.max_work <= self.max_work_together,
            f"max_work_together is {self.max_work_together}, of which one call gets at most half; "
            f"set it to {2 * self.max_work} or more",
        )
