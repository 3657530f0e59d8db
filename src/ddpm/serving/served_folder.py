"""The folder that `mlflow models serve` reads: the weights, the code that samples, and its requirements.

MLflow calls this models-from-code: the code is text, the weights are numbers, and nothing is pickled.
"""

import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ddpm

SERVED_PACKAGES = ("mlflow", "torch", "numpy", "pillow", "safetensors", "tqdm", "pydantic")
"""The packages that the served model imports, besides the copy of this package in the folder."""


def save_served(
    folder: Path,
    model_file: Path,
    *,
    run_id: str | None = None,
    model_id: str | None = None,
    location: str | None = None,
    bounds: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder for a safetensors file.

    `run_id`, `model_id` and `location` (of the artifacts) are MLflow's identifiers of it. `bounds` are the limits of
    `answering.Bounds`; None serves without limits.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    def show_others(message: Warning | str, *rest: Any, **more: Any) -> None:
        # `predict` accepts any value and reports errors itself. A filter for warnings does not help, because MLflow
        # sets its own filter before it warns.
        if "inferred as AnyType" not in str(message):
            show(message, *rest, **more)

    show = warnings.showwarning
    with warnings.catch_warnings():
        warnings.showwarning = show_others
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"model": str(model_file.resolve())},
            code_paths=[str(Path(ddpm.__file__).parent)],
            model_config=None if bounds is None else dict(bounds),
            # Package indexes do not have builds with a local version such as 2.9.0+cu130.
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in SERVED_PACKAGES],
            mlflow_model=Model(artifact_path=location, run_id=run_id, model_id=model_id, model_uuid=model_id),
        )
