"""Settings of retraining, which no stage reads: section `retrain` of params.yaml."""

from typing import Literal

from ddpm.settings import require, require_at_least, require_named, section


@section
class Retrain:
    """When a retraining starts, and on what."""

    incoming: str | None
    """Folder of pictures as they come in now, which a retraining compares with the champion's data; null: none. Nothing
    in it is changed."""
    on_drift: Literal["train", "report"]
    """What follows if the incoming pictures differ from the data. train: the new ones are copied into data.path, and
    the pipeline runs; report: the run says so, and a person decides."""
    false_alarms: float
    """Share of the comparisons that may find a difference where there is none."""
    least_images: int
    """Fewer new pictures are not compared: the retraining waits for more."""
    most_images: int
    """Incoming pictures, and held-out ones, that are compared at most; a seeded draw of more."""
    event_wait_seconds: float
    """Time from an event over HTTP to the retraining that it starts. Further events meanwhile start no other one."""
    event_again_seconds: float
    """Time after which the run of an event looks again if another retraining, or `dvc repro`, was working here."""
    event_body_bytes: int
    """Largest event over HTTP. The relay may have 32 of this size in memory at a time."""
    commit: Literal["none", "branch"]
    """none: a retraining works in this folder, as `dvc repro` does. branch: it works in a checkout of its own at the
    last commit, below .state, and its results become a commit on the branch `retraining`, with a tag per champion."""

    def __post_init__(self) -> None:
        require_named(self, "incoming")
        require(
            self.incoming is None or ("://" not in self.incoming and "\0" not in self.incoming),
            f"incoming is {self.incoming!r}, expected a local folder",
        )
        require(
            1e-4 <= self.false_alarms <= 0.5,
            f"false_alarms is {self.false_alarms}, expected a share from 0.0001 to 0.5",
        )
        require_at_least(20, self, "least_images")
        require_at_least(0, self, "event_wait_seconds")
        require_at_least(1, self, "event_again_seconds")
        require_at_least(1000, self, "event_body_bytes")
        require(
            self.least_images <= self.most_images,
            f"most_images is {self.most_images}, expected least_images ({self.least_images}) or above",
        )
