"""What must hold after a fault and one retraining, each as a sentence if it does not."""

import hashlib
import json
import tempfile
from pathlib import Path

from retrainings import Retrainings


def registered() -> set[str]:
    """The hashes of the models of all versions; a model that is two versions fails the test."""
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    hashes = [version.tags["model_sha256"] for version in MlflowRegistry("ddpm").versions()]
    assert len(set(hashes)) == len(hashes), f"a model is two versions: {hashes}"
    return set(hashes)


def what_is_lost(site: Retrainings, before: set[str], open_before: set[str]) -> list[str]:
    """Sentences about what is lost, twice, torn, or says Running; empty if all is whole."""
    lost = [f"Prefect says {each} of what has no process" for each in sorted(site.open_runs() - open_before)]
    lost += _of_registry(before)
    lost += _of_cache(site.path / ".dvc/cache/files/md5")
    lost += _of_outputs(site)
    doctor = site.run("ddpm", "doctor")
    if "nothing needs mending" not in doctor.stdout:
        lost.append(f"ddpm doctor: {doctor.stdout}")
    status = site.run("python", "-m", "dvc", "status", "--json")
    if status.stdout.splitlines()[-1:] != ["{}"]:
        lost.append(f"dvc status: {status.stdout}")
    return lost


def _of_registry(before: set[str]) -> list[str]:
    from ddpm.tracking import store
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    registry, client = MlflowRegistry("ddpm"), store.connect()
    versions = registry.versions()
    hashes = [version.tags["model_sha256"] for version in versions]
    lost = []
    if len(set(hashes)) != len(hashes):
        lost.append(f"a model is two versions: {hashes}")
    if before - set(hashes):
        lost.append(f"versions are gone: {before - set(hashes)}")
    new = set(hashes) - before
    if len(new) != 1:
        lost.append(f"{len(new)} new versions instead of one")
    champions = [version for version in versions if "champion" in version.aliases]
    if {version.tags["model_sha256"] for version in champions} != new:
        lost.append(f"the champion is {[version.number for version in champions]}, not the new version")
    history = registry.history()
    if [move.version for move in history[-1:]] != [version.number for version in champions]:
        lost.append(f"the history ends with {history[-1:]}, not with the champion")
    for version in versions[: len(new) + 1]:  # the new ones and the champion before
        with tempfile.TemporaryDirectory() as folder:
            registry.download(version, Path(folder))
        if not version.record() or "decision" not in version.tags:
            lost.append(f"version {version.number} has no metrics or no decision")
    experiments = [each.experiment_id for each in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'")
    return lost + [f"MLflow says RUNNING of {run.info.run_name}" for run in running]


def _of_cache(cache: Path) -> list[str]:
    """Each file in DVC's cache must have the hash that its name says; files that end in .tmp are never read."""
    lost = []
    for path in (path for path in cache.glob("??/*") if path.suffix != ".tmp"):
        name = path.parent.name + path.name
        if hashlib.md5(path.read_bytes()).hexdigest() != name.removesuffix(".dir"):
            lost.append(f"DVC's cache has {name}, whose content is another one")
    return lost


def _of_outputs(site: Retrainings) -> list[str]:
    """Every file that DVC has recorded as an output is the recorded one."""
    from ruamel.yaml import YAML

    lost = []
    stages = YAML(typ="safe").load((site.path / "dvc.lock").read_text())["stages"]
    for out in [out for stage in stages.values() for out in stage.get("outs", [])]:
        path = site.path / out["path"]
        if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() != out["md5"]:
            lost.append(f"{out['path']} is not the file that DVC has recorded")
        if path.is_dir():
            listed = site.path / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
            files = json.loads(listed.read_text())
            wrong = [
                each["relpath"]
                for each in files
                if hashlib.md5((path / each["relpath"]).read_bytes()).hexdigest() != each["md5"]
            ]
            lost += [f"{out['path']}/{name} is not the file that DVC has recorded" for name in wrong]
    return lost
