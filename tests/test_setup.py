"""`make setup`: uv installs what the lock names, pip where uv cannot, and neither takes a file of another hash."""

import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALLED = ("iniconfig", "setuptools", "uv")


def entry(package: str) -> str:
    """The package's lines of the lock: name, version and hashes."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"{package}=="))
    stop = next(k for k, line in enumerate(lines[start:], start) if not line.endswith("\\")) + 1
    return "\n".join(lines[start:stop]) + "\n"


def test_the_lock_names_the_installer_with_its_hashes() -> None:
    assert "--hash=sha256:" in entry("uv")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this Makefile and a lock of three small packages, in a folder whose name has a space."""
    folder = tmp_path / "a project"
    (folder / "src" / "small").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "src" / "small" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "small"\nversion = "0"\n[tool.setuptools.packages.find]\nwhere = ["src"]\n'
    )
    (folder / "requirements.lock").write_text("".join(map(entry, INSTALLED)))
    return folder


def setup(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "setup"],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def installer(project: Path, package: str) -> str:
    (found,) = (project / ".venv").glob(f"lib/python*/site-packages/{package}-*.dist-info/INSTALLER")
    return found.read_text().strip()


@pytest.mark.slow
def test_uv_installs_the_lock_and_the_project(project: Path) -> None:
    done = setup(project)
    assert done.returncode == 0, done.stderr
    assert [installer(project, package) for package in ("iniconfig", "small", "uv")] == ["uv", "uv", "pip"]
    assert subprocess.run([project / ".venv/bin/python", "-c", "import iniconfig, small"]).returncode == 0


@pytest.mark.slow
def test_pip_installs_where_uv_cannot(project: Path, tmp_path: Path) -> None:
    done = setup(project, UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "nothing"))
    assert done.returncode == 0, done.stderr
    assert "so pip does" in done.stdout
    assert installer(project, "iniconfig") == "pip"


@pytest.mark.slow
def test_a_file_of_another_hash_is_not_installed(project: Path) -> None:
    lock = project / "requirements.lock"
    wrong = entry("iniconfig").split("--hash")[0] + f"--hash=sha256:{'0' * 64}\n"
    lock.write_text(lock.read_text().replace(entry("iniconfig"), wrong))
    done = setup(project)
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()
    assert not list((project / ".venv").glob("lib/python*/site-packages/iniconfig*"))
    assert not (project / ".venv/ready").exists()


def index_with_torch(folder: Path) -> str:
    """A package index whose torch==2.15.0 is a module without CUDA, and with another version of iniconfig; its URL."""
    wheel = folder / "torch" / "torch-2.15.0+cpu-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    info = "torch-2.15.0+cpu.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("torch.py", "cuda = None\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.15.0+cpu\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", f"torch.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (wheel.parent / "index.html").write_text(f'<a href="{wheel.name}#sha256={digest}">{wheel.name}</a>')
    (folder / "iniconfig").mkdir()
    other = "iniconfig-0.1-py3-none-any.whl"
    (folder / "iniconfig" / "index.html").write_text(f'<a href="{other}">{other}</a>')
    return folder.as_uri()


@pytest.fixture
def with_cuda(project: Path) -> Path:
    """The project, whose lock also names torch and a library of CUDA, with hashes that no file has."""
    never = f" \\\n    --hash=sha256:{'0' * 64}\n"
    with (project / "requirements.lock").open("a") as lock:
        lock.write(f"nvidia-cublas==13.4 ; sys_platform == 'linux'{never}torch==2.15.0{never}")
    return project


@pytest.mark.slow
def test_torch_for_cpus_comes_from_the_index_of_the_user_with_hashes_from_the_second_time_on(
    with_cuda: Path, tmp_path: Path
) -> None:
    index = index_with_torch(tmp_path / "index")
    done = setup(with_cuda, TORCH="cpu", TORCH_INDEX=index)
    assert done.returncode == 0, done.stderr
    assert "uv could not install" not in done.stdout
    assert subprocess.run([with_cuda / ".venv/bin/python", "-c", "import iniconfig, small, torch"]).returncode == 0
    assert not list((with_cuda / ".venv").glob("lib/python*/site-packages/nvidia*"))
    lock = with_cuda / "requirements-cpu.lock"
    assert "torch==2.15.0+cpu" in lock.read_text()

    shutil.rmtree(with_cuda / ".venv")
    lock.write_text(f"torch==2.15.0+cpu --hash=sha256:{'1' * 64}\n")
    done = setup(with_cuda, TORCH="cpu", TORCH_INDEX=index)
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()


@pytest.mark.slow
def test_torch_for_cpus_needs_an_index(with_cuda: Path) -> None:
    done = setup(with_cuda, TORCH="cpu")
    assert done.returncode != 0
    assert "TORCH_INDEX=URL" in done.stdout


def test_what_make_starts_keeps_the_modules_that_it_compiled_where_a_container_turned_that_off() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--eval", "show: ; @echo [$$PYTHONDONTWRITEBYTECODE]", "show"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"
