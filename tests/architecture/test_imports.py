"""No stage and no command pays for a library that it does not use: what a real run has imported when it ends."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]

# The libraries that take more than a tenth of a second to import. `torch._dynamo` is torch's compiler.
HEAVY = {
    *("torch", "torch._dynamo", "sympy", "torchvision", "torch_fidelity", "matplotlib", "sklearn", "scipy", "PIL"),
    *("mlflow", "great_expectations", "prefect", "pandas", "pyarrow", "dask", "distributed", "fsspec", "diffusers"),
}
# MLflow, great_expectations and pyarrow import these themselves.
MLFLOW = {"mlflow", "pandas", "pyarrow", "scipy"}
# torch's optimizers import its compiler at their first step, and so does torchvision.
COMPILER = {"torch._dynamo", "sympy"}
USED = {
    "configure": set(),
    "prepare": {"PIL", "pyarrow", "pandas"},
    "validate": {"great_expectations", "pandas", "pyarrow", "scipy", "PIL"},
    "features": {"torch"} | COMPILER,
    "calibrate": {"torch", "torch_fidelity", "torchvision", "matplotlib", "PIL", "scipy"} | COMPILER,
    "autoencoder": set(),  # and the next one, with codec pixels
    "encode": set(),
    "train": {"torch", "PIL", "torch_fidelity", "torchvision"} | COMPILER | MLFLOW,  # FID during the training
    "sample": {"torch", "PIL"} | MLFLOW,
    "evaluate": {"torch", "torch_fidelity", "torchvision", "matplotlib", "PIL"} | COMPILER | MLFLOW,
    "register": {"torch", "PIL"} | MLFLOW,  # the served model, which it stores, reads and writes pictures
    "report": {"PIL"} | MLFLOW,
}
SMALL = {
    "features": {"images": 1280},
    "schedule": {"T": 50},
    "network": {"width": 8, "head_channels": 8},
    "train": {"images": 256, "warmup_images": 64, "decay_images": 64},
    "sample": {"steps": 3, "images": 200, "grid": 16},
    "evaluate": {"kid_subsets": 2},
    "promote": {"rules": [{"figure": "fid", "better_by": 0.02}]},
    "runtime": {"progress": False},
}
WATCHED = """
import atexit, runpy, sys
heavy, module, sys.argv = sys.argv[1].split(), sys.argv[2], sys.argv[2:]
atexit.register(lambda: print("imported:", *(name for name in heavy if name in sys.modules)))
if module == "ddpm":
    from ddpm.cli import main
    sys.exit(main())
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def imported(*command: str, folder: Path) -> set[str]:
    """What of HEAVY the command `ddpm` or a module's run in `folder` has imported at its end, which is to be good."""
    clean = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "MLFLOW_TRACKING_URI")}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, " ".join(sorted(HEAVY)), *command],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("imported:")[2].split())


@pytest.fixture(scope="module")
def run_stage(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Callable[[str], set[str]]:
    """Runs a stage of dvc.yaml on the digits, once, and says what it imported; earlier stages must have run."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "data/raw").mkdir(parents=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    shutil.copy(ROOT / "dvc.yaml", folder)
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    for section, values in SMALL.items():
        params[section].update(values)
    yaml.dump(params, folder / "params.yaml")
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    known: dict[str, set[str]] = {}

    def run(stage: str) -> set[str]:
        for name in list(stages)[: list(stages).index(stage) + 1]:
            if name not in known:
                command = stages[name]["cmd"].split()
                known[name] = imported(*command[command.index("-m") + 1 :], folder=folder)
        return known[stage]

    return run


@pytest.mark.parametrize(
    "stage",
    [
        *("configure", "prepare"),
        *(
            pytest.param(stage, marks=pytest.mark.slow)
            for stage in (
                "validate",
                "features",
                "calibrate",
                "autoencoder",
                "encode",
                "train",
                "sample",
                "evaluate",
                "register",
                "report",
            )
        ),
    ],
)
def test_a_stage_imports_the_libraries_that_it_uses_and_no_other(
    stage: str, run_stage: Callable[[str], set[str]]
) -> None:
    assert run_stage(stage) == USED[stage]


def test_every_stage_is_watched() -> None:
    assert set(USED) == set(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"])


@pytest.mark.parametrize("command", ["--help", "sample --help", "versions --help"])
def test_help_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    assert imported("ddpm", *command.split(), folder=tmp_path) == set()


def test_drawing_from_a_file_imports_torch_and_the_picture_library_alone(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "model.safetensors")
    command = "ddpm sample --model model.safetensors --number 2 --steps 2 --out two.png"
    assert imported(*command.split(), folder=tmp_path) == {"torch", "PIL"}


def test_neither_asking_the_registry_nor_the_flow_retrain_imports_torch(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    program = (
        "import sys\nimport retrain\nassert 'mlflow' not in sys.modules\n"
        "from ddpm.tracking.mlflow_registry import MlflowRegistry\n"
        "assert MlflowRegistry('ddpm').versions() == [] and 'mlflow' in sys.modules and 'torch' not in sys.modules"
    )
    clean = {name: value for name, value in os.environ.items() if name not in ("DVC_ROOT", "MLFLOW_TRACKING_URI")}
    clean |= {"PYTHONPATH": str(ROOT / "flows"), "PREFECT_HOME": str(tmp_path / "prefect")}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=clean, check=True)
