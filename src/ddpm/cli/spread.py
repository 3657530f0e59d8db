"""The command that trains the present recipe again with other seeds and records what that does to each metric."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.params import Params

STATE = Path(".state/spread")
STAGES = ("train", "sample", "evaluate")
_OWN = {"models", "reports", "data", "params.yaml", "dvc.lock", ".state", ".git", ".dvc", "mlflow.db", "mlartifacts"}
"""Entries of the project that are not linked into the folder of a repeated training, which has its own or none."""
_NOT_MADE = {"data/generated"}
_NO_RECIPE = tuple("data validate promote canary retrain search runtime tracking serve watch signing".split())
"""Sections of params.yaml that determine neither a model nor its metrics but by the prepared data."""


def spread(args: argparse.Namespace) -> None:
    """Train, sample and evaluate once per seed in folders of their own; write mean and spread of every metric."""
    from ddpm.data.reading.dataset import read_facts
    from ddpm.files import write_json
    from ddpm.params import load as load_params
    from ddpm.pipeline.workspace import claim
    from ddpm.reporting import training_again

    if args.seeds < 2:
        raise UserError(f"--seeds is {args.seeds}, but a spread needs at least 2 trainings; name 2 or more")
    params = load_params()
    prepared = Path("data/prepared")
    with claim("`ddpm spread`"):
        facts = read_facts(prepared)
        _require_made()
        recipe = STATE / recipe_fingerprint(params, facts.content_hash)
        seeds = [params.train.seed + k for k in range(1, args.seeds + 1)]
        left = [seed for seed in seeds if not _is_done(recipe / f"seed-{seed}")]
        if left:
            _print_plan(params, trainings=len(left), of=len(seeds), state=recipe)
        for seed in left:
            folder = recipe / f"seed-{seed}"
            print(f"ddpm spread: seed {seed} in {folder}", flush=True)
            _make_folder(folder, params, seed)
            _require_recipe(folder)
            for stage in STAGES:
                _run(stage, folder)
            _require_recipe(folder)
            _tag(folder, seed=seed, recipe=recipe.name)
            (folder / "done").touch()
            for made in ("data", ".state"):
                shutil.rmtree(folder / made)
        records = {seed: json.loads((recipe / f"seed-{seed}" / "reports/metrics.json").read_text()) for seed in seeds}
        written = training_again.content(records, _lineage(recipe / f"seed-{seeds[0]}"))
        write_json(training_again.FILE, written)
    print(f"{training_again.FILE}: {len(seeds)} trainings, seeds {seeds[0]} to {seeds[-1]}")
    _print(written)


def _require_made() -> None:
    """Raise UserError unless the stages before the training have run."""
    from ddpm.pipeline.dvc_yaml import options_of_stage

    for stage, options in (("features", ("extractor", "made")), ("validate", ("report", "docs", "passed"))):
        paths = options_of_stage(stage)
        for option in options:
            path = getattr(paths, option, None)
            if path is None or not path.exists():
                raise UserError(f"{path} was not found; make it with `dvc repro {stage}`")


def recipe_fingerprint(params: "Params", data_hash: str) -> str:
    """Return a hash of what determines the metrics of a training but for its seed."""
    from ddpm.pipeline.dvc_yaml import code_of_stage
    from ddpm.settings import as_dict
    from ddpm.training import checkpoint

    sections = {name: values for name, values in as_dict(params).items() if name not in _NO_RECIPE}
    sections["train"] = {name: value for name, value in sections["train"].items() if name not in ("seed", "max_hours")}
    code = sorted({path for stage in STAGES for path in code_of_stage(stage)})
    return checkpoint.fingerprint({"params": sections, "data": data_hash, "code": checkpoint.code_hash(*code)})


def _require_recipe(folder: Path) -> None:
    """Raise UserError, and remove the folder of a training, unless it has the recipe after which its parent is named.

    params.yaml is copied when a training begins, and another process may change it, the data or the code at any time.
    """
    from ddpm.data.reading.dataset import read_facts
    from ddpm.params import load as load_params

    if (
        recipe_fingerprint(load_params(folder / "params.yaml"), read_facts(Path("data/prepared")).content_hash)
        != folder.parent.name
    ):
        shutil.rmtree(folder)
        raise UserError(
            f"params.yaml, data/prepared or the code changed since `ddpm spread` began, so the training in {folder} is "
            "one of another recipe and was removed; run `ddpm spread` again, without such a change"
        )


def _is_done(folder: Path) -> bool:
    return (folder / "done").exists()


def _print_plan(params: "Params", *, trainings: int, of: int, state: Path) -> None:
    """Print how long the trainings take. Raises UserError where stage train would not begin them."""
    from ddpm.compute import hardware
    from ddpm.data.reading.dataset import read_facts
    from ddpm.planning.before_training import make_plan
    from ddpm.planning.plan import Pictures, duration
    from ddpm.training.spec import sections_of, spec_of

    facts = read_facts(Path("data/prepared"))
    sections = sections_of(params)
    spec = spec_of(channels=facts.channels, size=facts.size, classes=facts.classes, **sections)
    device = hardware.choose_device(params.runtime.device)
    precision = hardware.choose_precision(params.runtime.precision, device, spec.noise_size)
    pictures = Pictures(facts.train, facts.test)
    plan, _ = make_plan(params, spec, pictures, folder=None, device=device, precision=precision)
    if sentence := plan.refusal():
        raise UserError(sentence)
    one = plan.seconds + (plan.sampling_seconds or 0.0) + (plan.evaluation_seconds or 0.0)
    done = f"{of - trainings} of {of} trainings are done already; " if trainings < of else ""
    print(
        f"ddpm spread: {done}{trainings} x {duration(one)} = about {duration(trainings * one)}, and some seconds for "
        f"the start of each stage; state in {state}; Ctrl-C stops it, and the same command continues",
        flush=True,
    )


def _make_folder(folder: Path, params: "Params", seed: int) -> None:
    """Make the folder of one training: the project by links, but with a seed, models and reports of its own."""
    from ddpm import overlay

    for own in ("models", "reports", "data"):
        (folder / own).mkdir(parents=True, exist_ok=True)
    project = Path.cwd()
    shared = [path for path in project.iterdir() if path.name not in _OWN]
    shared += [path for path in project.glob("data/*") if path.relative_to(project).as_posix() not in _NOT_MADE]
    shared += [
        *project.glob("models/*extractor*"),
        *project.glob("reports/validation.json"),
        project / "reports/data_docs",
    ]
    for path in shared:
        link = folder / path.relative_to(project)
        if not link.is_symlink():
            link.symlink_to(path)
    shutil.copyfile("params.yaml", folder / "params.yaml")
    own_values: dict[str, Any] = {
        "train": {"seed": seed},
        "tracking": {"experiment": f"{params.tracking.experiment} training again"},
        "runtime": {"resume": "auto", "cache": str(Path(params.runtime.cache).resolve())},
    }
    overlay.write_values(folder / "params.yaml", own_values, "ddpm spread")


def _run(stage: str, folder: Path) -> None:
    """Run a stage of dvc.yaml in this folder, unless it has run. Raises UserError if it fails.

    After Ctrl-C the stage, which gets it, too, saves its work.
    """
    from ddpm.pipeline.workspace import GRACE_SECONDS, launcher_environment

    finished = folder / f"{stage}.done"
    if finished.exists():
        return
    words = _command(stage)
    environment = os.environ | launcher_environment() | {"DVC_ROOT": str(Path.cwd())}
    process = subprocess.Popen([sys.executable, *words[1:]], cwd=folder, env=environment)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise UserError(
            f"stage {stage} of the training in {folder} failed with status {status}; correct what it says above, then "
            "run `ddpm spread` again"
        )
    finished.touch()


def _command(stage: str) -> list[str]:
    from ddpm.pipeline.dvc_yaml import PIPELINE
    from ddpm.yaml_file import read

    words: list[str] = read(PIPELINE)["stages"][stage]["cmd"].split()
    return words


def _tag(folder: Path, *, seed: int, recipe: str) -> None:
    """Mark the MLflow run of a training again, so that nobody takes it for a candidate."""
    from ddpm.tracking.run_json import attach

    tracker = attach(folder / "models/run.json")
    tracker.tags({"training_again": recipe, "training_again.seed": str(seed)})
    tracker.finish()


def _lineage(folder: Path) -> dict[str, Any]:
    from ddpm import last_run

    return last_run.lineage_of(folder / "models/model.safetensors")


def _print(written: dict[str, Any]) -> None:
    from ddpm.measuring.metric_catalogue import JUDGED

    width = max(len(metric.label) for metric in JUDGED) + 2
    print(f"{'':{width}}{'mean':>12}{'training again':>18}{'drawing again':>16}   standard deviations")
    for metric in JUDGED:
        if found := written["spread"].get(metric.name):
            drawing = f"{found['drawing']:.2g}" if "drawing" in found else ""
            print(f"{metric.label:{width}}{found['mean']:>12.4g}{found['std']:>18.2g}{drawing:>16}")
