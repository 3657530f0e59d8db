"""`pip install .` brings what drawing with a model file needs, and `pip install ".[pipeline]"` all the rest.

An environment of each is made by hiding every installed package that the extra would not bring.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from waiting import HANG_SECONDS

from ddpm.serving.served_folder import SERVED_PACKAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE: list[str] = PROJECT["dependencies"]
PIPELINE: list[str] = BASE + PROJECT["optional-dependencies"]["pipeline"]
SERVED = list(SERVED_PACKAGES)

# Python finds only what is named, as if nothing else were installed.
HIDING = """
import sys
from importlib.machinery import PathFinder
hidden = set(sys.argv.pop(1).split(","))

class Visible(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Visible
"""
COMMAND = f"{HIDING}\nfrom ddpm.cli import main\nsys.exit(main())"


def brought_by(requirements: Iterable[str]) -> set[str]:
    """The distributions that pip installs for these here, and for what they require in turn."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        for line in found[name].requires or ():
            inner = Requirement(line)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *wanted.extras)):
                waiting.append(inner)
    return set(found)


@pytest.fixture(scope="module")
def hidden_from() -> Callable[[Iterable[str]], str]:
    """The modules that an environment of these requirements does not have, with commas between."""
    modules = packages_distributions()

    def hidden(requirements: Iterable[str]) -> str:
        visible = brought_by(requirements) | {"ddpm-factory"}
        names = {name for name, by in modules.items() if visible.isdisjoint(map(canonicalize_name, by))}
        return ",".join(sorted(names))

    return hidden


@pytest.fixture
def consumer(hidden_from: Callable[[Iterable[str]], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `ddpm` as a consumer who typed `pip install .` does."""
    hidden = hidden_from(BASE)
    assert {"mlflow", "dvc", "prefect", "psutil", "torchvision", "sklearn"} <= set(hidden.split(","))

    def run(command: str, **options: object) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", COMMAND, hidden, *command.split()]
        return subprocess.run(words, capture_output=True, text=True, timeout=HANG_SECONDS, **options)  # type: ignore[call-overload]

    return run


def test_a_consumer_draws_with_a_model_file(
    tmp_path: Path,
    consumer: Callable[..., subprocess.CompletedProcess[str]],
    tiny_model: Callable[..., str],
) -> None:
    tiny_model(tmp_path / "model.safetensors")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/tmp/rwlock").write_text("torn")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shown = consumer("", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "sample" in shown.stdout
    drawn = consumer("sample --model model.safetensors --number 2 --steps 2 --out two.png", cwd=tmp_path)
    assert (drawn.returncode, drawn.stderr) == (0, "")
    assert (tmp_path / "two.png").exists()


def test_a_consumer_serves_a_model_file(
    tmp_path: Path, hidden_from: Callable[[Iterable[str]], str], tiny_model: Callable[..., str]
) -> None:
    from urllib.request import Request, urlopen

    tiny_model(tmp_path / "model.safetensors")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    words = [sys.executable, "-c", COMMAND, hidden_from(BASE), *"serve --port 0 --model model.safetensors".split()]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().rpartition(" on ")[2].partition(",")[0]
        body = json.dumps({"inputs": [{"number": 1, "seed": 1, "steps": 2}]}).encode()
        with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=HANG_SECONDS) as answer:
            assert len(json.load(answer)["predictions"][0]["images"]) == 1
    finally:
        process.terminate()
        process.wait(HANG_SECONDS)


@pytest.mark.parametrize(
    "command",
    ["versions", "rollback", "promote 1 --reason good", "sample --out a.png", "serve", "configure params.yaml"],
)
def test_what_needs_the_pipeline_says_in_one_sentence_what_to_install(
    tmp_path: Path, consumer: Callable[..., subprocess.CompletedProcess[str]], command: str
) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    done = consumer(command, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"error: this needs \w+, which is not installed here; [^\n]*\n", done.stderr), done.stderr
    assert '`pip install "ddpm-factory[pipeline]"`' in done.stderr


def imported(folder: str) -> set[str]:
    """The packages of others that files below the folder import, anywhere in them."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    own = {path.stem for path in (ROOT / folder).rglob("*.py")} | {"ddpm"}
    return {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names | own}


OWN_EXTRAS = {"peft", "optuna", "tokenizers", "model_signing"}


@pytest.fixture
def pipeline(hidden_from: Callable[[Iterable[str]], str]) -> Callable[[str], None]:
    """Runs a line of Python for every `name` that src/ddpm or flows import, where only the extra is installed.

    peft, optuna, tokenizers and model_signing are in extras of their own.
    """
    found = imported("src/ddpm") | imported("flows")
    hidden = hidden_from(PIPELINE)
    names = sorted(name for name in found if name.partition(".")[0] not in OWN_EXTRAS)
    assert {"pytest", "diffusers", "moto"} <= set(hidden.split(","))
    assert {"mlflow", "prefect", "torch"} <= set(names)

    def run(line: str) -> None:
        program = f"{HIDING}\nimport importlib, importlib.util\nfor name in sys.argv[1:]: {line}"
        done = subprocess.run([sys.executable, "-c", program, hidden, *names], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return run


def test_the_extra_brings_every_package_that_the_pipeline_imports(pipeline: Callable[[str], None]) -> None:
    pipeline("assert importlib.util.find_spec(name.partition('.')[0]), name")


@pytest.mark.slow
def test_what_the_pipeline_imports_needs_nothing_else_to_be_imported(pipeline: Callable[[str], None]) -> None:
    pipeline("importlib.import_module(name)")


@pytest.mark.slow
def test_the_served_model_imports_nothing_but_what_it_says_it_needs(
    tmp_path: Path, hidden_from: Callable[[Iterable[str]], str], tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "model.safetensors")
    program = f"""{HIDING}
from types import SimpleNamespace
from ddpm.serving.pyfunc_model import DiffusionModel
model = DiffusionModel()
model.load_context(SimpleNamespace(artifacts={{"model": "model.safetensors"}}, model_config=None))
print(len(model.predict([{{"number": 2, "seed": 1, "steps": 2}}])[0]["images"]))
"""
    command = [sys.executable, "-c", program, hidden_from(SERVED)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr
