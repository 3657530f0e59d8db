"""What MLflow records, and how often: `tracking` in params.yaml."""

from ddpm.settings import require_named, require_positive, section


@section
class Tracking:
    """What MLflow is told, and how often; the server is MLFLOW_TRACKING_URI's."""

    experiment: str
    log_every_images: int
    grid_every_images: int

    def __post_init__(self) -> None:
        require_named(self, "experiment")
        require_positive(self, "log_every_images", "grid_every_images")
