"""The register stage on real digits with untrained models: first champion, another protocol, the same model again."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from ddpm import config
from ddpm.data.dataset import read_facts, read_split
from ddpm.errors import UserError
from ddpm.integrations import fidelity, mlflow_store, registry
from ddpm.stages import prepare, register

ROOT = Path(__file__).parents[2]
SMALL = {
    "features": {"dim": 16, "images": 4000},
    "evaluate": {"kid_subset_size": 20, "kid_subsets": 5, "blocks": 2},
    "promote": {"max_over_floor": 1e9, "max_memorized_share": 1.0},
    "runtime": {"progress": False, "device": "cpu", "precision": "float32"},
}
SAMPLING = {"seed": 0, "sampler": "ddim", "steps": 2, "eta": 0.0, "guidance": 1.0}
DIGITS = {"classes": [str(k) for k in range(10)]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the digits prepared, an extractor, and parameters for small things."""
    from ddpm.evaluation.extractor_training import train_extractor

    folder = tmp_path_factory.mktemp("digits")
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    yaml.dump(params, folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("data/raw").mkdir(parents=True)
        run_main(prepare.main, patch, prepared="data/prepared", state=".state/prepare")
        extractor = train_extractor(
            read_split(Path("data/prepared"), "train"),
            read_split(Path("data/prepared"), "test"),
            kind="classifier",
            classes=10,
            settings=config.load().features,
            device=torch.device("cpu"),
            progress=False,
        )
        extractor.save(Path("extractor.safetensors"))
    return folder


def run_main(main: Callable[[], None], patch: pytest.MonkeyPatch, **options: str) -> None:
    patch.setattr(sys, "argv", ["stage", *(word for name, value in options.items() for word in (f"--{name}", value))])
    main()


class Pipeline:
    """What the stages before `register` leave, for an untrained model."""

    def __init__(self, project: Path, tiny_model: Callable[..., str], patch: pytest.MonkeyPatch) -> None:
        self.project, self.tiny_model, self.patch = project, tiny_model, patch

    def measured(self, n: int) -> dict[str, Any]:
        params = config.load()
        rest = dict.fromkeys(("reference_hash", "extractor", "extractor_hash", "torch_fidelity"), "")
        numbers = dict.fromkeys(
            ("reference_n", "kid_subset_size", "kid_subsets", "neighbours", "memorized_quantile"), 0
        )
        return dict(
            fidelity.remeasure(
                Path("model.safetensors"),
                protocol=SAMPLING | {"n": n} | rest | numbers,
                prepared=Path("data/prepared"),
                extractor=Path("extractor.safetensors"),
                evaluate=params.evaluate,
                runtime=params.runtime,
            )
        )

    def train(self, seed: int, *, n: int) -> None:
        sha = self.tiny_model(Path("model.safetensors"), seed=seed, **DIGITS)
        tracker = mlflow_store.start_run(
            experiment="tests",
            name=f"training {seed}",
            facts=read_facts(Path("data/prepared")),
            prepared=Path("data/prepared"),
        )
        mlflow_store.log_model(tracker, Path("model.safetensors"), model_sha256=sha)
        tracker.finish()
        Path("run.json").write_text(json.dumps(mlflow_store.run_record(tracker, model_sha256=sha)))
        Path("metrics.json").write_text(json.dumps(self.measured(n)))

    def register(self) -> None:
        options = {"extractor": "extractor.safetensors", "model": "model.safetensors", "run": "run.json"}
        run_main(
            register.main,
            self.patch,
            prepared="data/prepared",
            metrics="metrics.json",
            receipt="registered.json",
            **options,
        )


@pytest.fixture
def pipeline(
    project: Path, prepared: Path, tiny_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Pipeline:
    shutil.copytree(prepared, project, dirs_exist_ok=True)
    return Pipeline(project, tiny_model, monkeypatch)


def test_a_champion_is_made_held_and_measured_again_by_a_new_protocol(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.train(0, n=100)
    pipeline.register()
    said = capsys.readouterr().out
    assert "ddpm version 1 is the champion now" in said
    assert "there is no champion to be better than" in said
    first = registry.version("ddpm", "1")
    assert (first.tags["channels"], first.tags["size"], first.tags["classes"]) == ("1", "8", "10")
    assert first.tags["data_hash"]
    assert first.record() == json.loads(Path("metrics.json").read_text())

    pipeline.register()
    assert "it is the champion already: nothing to decide" in capsys.readouterr().out

    by_new_protocol = pipeline.measured(n=120)
    pipeline.train(1, n=120)
    pipeline.register()
    said = capsys.readouterr().out
    assert "measuring champion 1 again by the candidate's protocol" in said
    again = registry.version("ddpm", "1").record("record_again")
    assert again == by_new_protocol  # the same images, made again from the registry's copy of the model
    candidate = registry.version("ddpm", "2")
    assert candidate.tags["decided_against"] == "1"
    new, old = json.loads(Path("metrics.json").read_text())["fid"], again["fid"]
    assert candidate.tags["decision"] == ("promoted" if new <= 0.98 * old else "kept")

    pipeline.register()
    assert "measuring champion" not in capsys.readouterr().out
    assert [v.number for v in registry.versions("ddpm")] == ["2", "1"]


def test_a_model_whose_run_the_store_does_not_know_is_not_registered(pipeline: Pipeline) -> None:
    pipeline.train(0, n=100)
    record = json.loads(Path("run.json").read_text())
    Path("run.json").write_text(json.dumps(record | {"model_sha256": "0" * 64}))
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        pipeline.register()
    assert registry.versions("ddpm") == []
