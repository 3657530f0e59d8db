"""`make setup`: uv installs what the lock names, pip where uv cannot, and neither takes a file of another hash."""

import os
import shutil
import subprocess
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
