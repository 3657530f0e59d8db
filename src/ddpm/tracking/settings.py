"""What MLflow records and how often: section `tracking` of params.yaml."""

from ddpm.settings import require_named, require_positive, section


@section
class Tracking:
    """The experiment, and how often metrics and sample grids are logged. MLFLOW_TRACKING_URI names the server."""

    experiment: str
    """Name of the experiment in MLflow."""
    log_every_images: int
    """Images seen in training between two records of the loss, the learning rate and the speed."""
    grid_every_images: int
    """Images seen in training between two pictures of samples."""

    def __post_init__(self) -> None:
        require_named(self, "experiment")
        require_positive(self, "log_every_images", "grid_every_images")
