"""The house holds: imports go down the floors, each tool has its room, and importing does nothing."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "ddpm"

# From the ground up; a module may import its own room and anything on a lower floor.
FLOORS = (
    {"errors", "files", "redaction", "seeding", "images", "yaml_file", "unread_settings", "settings", "tracker"},
    {"compute", "degrading", "diffusion", "networks", "rendering", "signing"},
    {"sampling", "model_spec", "pipeline"},
    {"model_file", "text"},
    {"data", "generation", "training", "exchange"},
    {"measuring", "encoding"},
    {"planning", "calibrating", "searching"},
    {"drifting"},
    {"promotion"},
    {"canary", "reporting"},
    {"serving"},
    {"tracking"},
    {"params", "recipe_file"},
    {"overlay", "params_reference", "few_images"},
    {"recipe_advice", "last_run", "search_space"},
    {"stages", "cli"},
)
ROOMS = {
    "mlflow": "tracking",
    "great_expectations": "data",
    "torch_fidelity": "measuring",
    "model_signing": "signing",
    "tokenizers": "text",
}
# MLflow runs pyfunc_model.py itself, and writes the folder around it.
GUESTS = {"serving/pyfunc_model.py": "mlflow", "serving/served_folder.py": "mlflow"}
MODULES = sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: Path) -> str:
    return module.relative_to(SOURCE).with_suffix("").parts[0]


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in MODULES} - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    if room(path) == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "ddpm" and len(parts) > 1 and parts[1] in set().union(*FLOORS):
            own, other = room(path), parts[1]
            assert own == other or floor(other) < floor(own) or (floor(own) == floor(other) == 0), (
                f"{path.relative_to(SOURCE)} on floor {floor(own)} imports {name} on floor {floor(other)}"
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_tool_has_its_room(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top != "prefect", "prefect belongs to flows/"
        if GUESTS.get(str(path.relative_to(SOURCE))) != top:
            assert ROOMS.get(top, room(path)) == room(path), f"{name} belongs to {ROOMS.get(top)}/"


@pytest.mark.parametrize("package", ["diffusion", "networks", "sampling"])
def test_the_mathematics_imports_torch_alone(package: str) -> None:
    own = {"sampling": ("ddpm.sampling", "ddpm.diffusion", "ddpm.degrading.operators")}.get(
        package, (f"ddpm.{package}",)
    )
    for path in (SOURCE / package).rglob("*.py"):
        for name in imports(path):
            top = name.split(".")[0]
            assert (
                top in sys.stdlib_module_names
                or top == "torch"
                or name.startswith((*own, "ddpm.settings.", "ddpm.images"))
            ), f"{path.name} imports {name}"


def test_importing_everything_makes_no_file_and_loads_no_heavy_tool(tmp_path: Path) -> None:
    names = [
        ".".join(("ddpm", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in MODULES
        # MLflow's own loader runs this one: models from code import mlflow and register themselves.
        if path.name != "pyfunc_model.py"
    ]
    heavy = ("mlflow", "great_expectations", "torch_fidelity", "torchvision", "prefect", "matplotlib", "sklearn")
    program = f"import sys, {', '.join(names)}\nprint([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_needs_no_torch() -> None:
    program = "import sys, ddpm.params, ddpm.pipeline.workspace, ddpm.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
