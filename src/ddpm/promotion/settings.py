"""When a candidate takes over: `promote` in params.yaml."""

from typing import Literal

from ddpm.settings import require, require_positive, require_share, section


@section
class Promote:
    """The rule by which a candidate becomes champion."""

    name: str
    """Registered model."""
    metric: Literal["fid", "kid"]
    min_improvement: float
    """Share by which the candidate must be better than the champion."""
    max_over_floor: float
    """The candidate's metric, as a multiple of the floor."""
    max_memorized_share: float
    """The candidate's share of copies in each way of comparing is at most this."""
    approval: Literal["auto", "ask"]
    """ask leaves a better candidate to a person (Prefect or `ddpm promote`)."""

    def __post_init__(self) -> None:
        require(
            self.name.strip() != "" and not {"/", ":"} & set(self.name),
            f"name is {self.name!r}, expected a name without / and :",
        )
        require_share(self, "min_improvement", "max_memorized_share")
        require_positive(self, "max_over_floor")
