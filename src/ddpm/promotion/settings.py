"""The rule of promotion: section `promote` of params.yaml."""

from typing import Literal

from ddpm.settings import require, require_positive, require_share, section


@section
class Promote:
    """The rule by which a candidate becomes champion."""

    name: str
    """Name of the registered model."""
    metric: Literal["fid", "kid"]
    """The metric that the gate compares; lower is better."""
    min_improvement: float
    """Share of the champion's metric by which the candidate must be better, in [0, 1]."""
    max_over_floor: float
    """Upper bound of the candidate's metric, as a multiple of the floor; positive."""
    max_memorized_share: float
    """Upper bound of the candidate's share of copies in each way of comparing, in [0, 1]."""
    approval: Literal["auto", "ask"]
    """auto: the gate decides; ask: a person decides about a better candidate (Prefect or `ddpm promote`)."""

    def __post_init__(self) -> None:
        require(
            self.name.strip() != "" and not {"/", ":"} & set(self.name),
            f"name is {self.name!r}, expected a name without / and :",
        )
        require_share(self, "min_improvement", "max_memorized_share")
        require_positive(self, "max_over_floor")
