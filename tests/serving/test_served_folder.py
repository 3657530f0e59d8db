"""The folder that MLflow serves: no pickle, exact requirements, and it works without the project."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ddpm.serving.served_folder import SERVED_PACKAGES, save_served


@pytest.fixture
def served_folder(tmp_path: Path, tiny_model: Callable[..., str]) -> Path:
    tiny_model(tmp_path / "model.safetensors")
    save_served(
        tmp_path / "served",
        tmp_path / "model.safetensors",
    )
    return tmp_path / "served"


def test_the_logged_model_holds_no_pickle_and_no_compiled_code(served_folder: Path) -> None:
    files = [path for path in served_folder.rglob("*") if path.is_file()]
    text = {".py", ".cpp", ".typed", ".txt", ".yaml", ".html", ".css", ".js", ".svg", ""}
    assert {path.suffix for path in files} <= {".safetensors", *text}
    for path in files:
        start_of_file = path.read_bytes()[:2]
        assert start_of_file not in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"), path


def test_the_logged_model_says_exactly_what_it_needs(served_folder: Path) -> None:
    needs = (served_folder / "requirements.txt").read_text().split()
    assert [line.partition("==")[0] for line in needs] == list(SERVED_PACKAGES)
    assert not any("+" in line for line in needs)


ELSEWHERE = """
import json, sys
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict([{"number": 2, "seed": 1, "steps": 2}])
import ddpm
heavy = ("torchvision", "sklearn", "matplotlib", "great_expectations", "torch_fidelity", "prefect", "dvc")
print(json.dumps([ddpm.__file__, len(answer[0]["images"]), [name for name in heavy if name in sys.modules]]))
"""


def test_the_logged_model_loads_anywhere_without_the_project_and_imports_nothing_heavy(
    served_folder: Path, tmp_path: Path
) -> None:
    import torch

    (tmp_path / "elsewhere").mkdir()
    # -S: no .pth file makes the project importable; its dependencies are put on the path by hand.
    packages = str(Path(torch.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-S", "-c", ELSEWHERE, str(served_folder)],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    where, images, heavy = json.loads(done.stdout.splitlines()[-1])
    assert Path(where).is_relative_to(served_folder)
    assert images == 2
    assert heavy == []
