"""Stage `report` and `ddpm report` write one page about the last run, and say when the project has changed since."""

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dvc.repo import Repo
from PIL import Image
from ruamel.yaml import YAML

from ddpm import cli, last_run
from ddpm.data.preparing.prepare import prepare
from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.params import load as load_params
from ddpm.pipeline.dvc_yaml import options_of_stage
from ddpm.pipeline.workspace import claim
from ddpm.stages import report
from ddpm.stages.stage import Stage
from ddpm.tracking import store
from ddpm.tracking.mlflow_registry import MlflowRegistry

ROOT = Path(__file__).parents[2]
MEASURED = {
    **{metric.name: 0.5 for metric in JUDGED},
    "floor": {"fid": 0.25},
    "protocol": {"n": 20, "reference_n": 359, "drawing": {"sampler": "ddim", "steps": 10}},
}
REACTIONS = {
    "reasons": [{"figure": "kid", "why": "KID does not react as it must."}],
    "protocol": {"n": 1438, "reference_n": 359},
    "damages": [{"name": "blur", "title": "Blurred", "steps": ["none", "σ 1", "σ 2"]}],
    "reactions": [{"figure": "fid", "damage": "blur", "values": [0.25, 0.4, 1.5]}],
}


@pytest.fixture
def ended(project: Path, tiny_model: Callable[..., str]) -> Path:
    """A project whose pipeline has run: real digits, an untrained model that is registered, random images."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, project)
    paths = options_of_stage("report")
    assert paths is not None
    params = load_params()
    prepare(params.data, raw=project, prepared=paths.prepared, workers=1, progress=False)
    paths.images.mkdir(parents=True)
    np.save(paths.images / "images.npy", np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), np.uint8))
    np.save(paths.images / "labels.npy", np.arange(20) % 10)
    paths.docs.mkdir(parents=True)
    paths.validation.write_text(json.dumps({"expectations": 17, "details": []}))
    paths.metrics.write_text(json.dumps(MEASURED))
    paths.reactions.write_text(json.dumps(REACTIONS))
    Image.new("RGB", (40, 30)).save(paths.damaged)
    paths.curves.write_text("images_seen,loss,loss_noise_quarter_1\n128,0.5,\n256,0.25,0.125\n")
    sha = tiny_model(paths.model)
    client = store.connect()
    (project / "mlartifacts").mkdir()
    experiment = client.create_experiment("tests", artifact_location=(project / "mlartifacts").as_uri())
    run = client.create_run(experiment, tags={"model_sha256": sha}).info.run_id
    client.log_metric(run, "system/gpu_0_power_usage_watts", 100.0)
    client.set_terminated(run, "FINISHED")
    model_id = client.create_logged_model(experiment, source_run_id=run).model_id
    registry = MlflowRegistry("ddpm")
    tags = {"weights_sha256": sha, "decision": "kept", "reasons": "fid 0.5 is above <b>"}
    registry.register(sha256=sha, model_id=model_id, run_id=run, record=MEASURED, tags=tags)
    made = {"experiment": "tests", "tracking_uri": "x", "model_sha256": sha}
    paths.run.write_text(json.dumps(made))
    return project


def test_the_stage_writes_the_page_and_logs_it_and_a_second_one_leaves_the_receipt_as_it_is(
    ended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = options_of_stage("report")
    assert paths is not None
    report.main(Stage(argparse.Namespace(**vars(paths))))
    page, receipt = paths.page.read_text(encoding="utf-8"), paths.receipt.read_bytes()
    for part in (
        "digits: version 1 did not become the champion",
        "fid 0.5 is above &lt;b&gt;",
        "at 100 W on average",
        "σ 1 (0.4)",
        "σ 2 (1.5)",
        "KID does not",
    ):
        assert part in page
    assert page.count("data:image/png") == 21, "generated and real images of ten classes, and the damaged ones"
    client = store.connect()
    run = client.search_runs([client.get_experiment_by_name("tests").experiment_id])[0].info.run_id
    assert [file.path for file in client.list_artifacts(run)] == ["evaluation", paths.page.name]
    logged = {file.path for file in client.list_artifacts(run, "evaluation")}
    assert logged == {"evaluation/reactions.json", "evaluation/reactions.png"}
    assert str(paths.page) in capsys.readouterr().out
    report.main(Stage(argparse.Namespace(**vars(paths))))
    assert paths.receipt.read_bytes() == receipt


def test_the_command_writes_the_page_again_and_says_where_it_is(
    ended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MlflowRegistry("ddpm").versions()
    assert cli.main(["report"]) == 0
    said = capsys.readouterr().out
    assert "reports/report.html" in said
    assert "OLDER" not in said, "DVC does not manage this folder"
    assert Path("reports/report.html").exists()
    Path("reports/validation.json").unlink()
    assert cli.main(["report"]) == 0
    assert "reports/validation.json was not found; run the pipeline" in capsys.readouterr().out.replace("\n", " ")


def test_while_a_retraining_runs_the_command_says_so_instead_of_comparing_half_of_its_files(
    ended: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MlflowRegistry("ddpm").versions()
    Path("reports/validation.json").unlink()
    with claim("the flow retrain"):
        assert cli.main(["report"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "IN WORK" in said
    assert "is in use by the flow retrain" in said
    assert "not found" not in said, "a stage is making the file anew"


def test_changes_since_the_run_are_named_with_the_results_that_they_make_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert last_run.outdated() == ""
    stages = {
        "train": {"cmd": "cp code model", "deps": ["code"], "params": ["train.lr"], "outs": ["model"]},
        "evaluate": {"cmd": "cp model metrics", "deps": ["model"], "metrics": [{"metrics": {"cache": False}}]},
        "report": {"cmd": "true", "deps": ["metrics"]},
    }
    YAML().dump({"stages": stages}, tmp_path / "dvc.yaml")
    Path("code").write_text("1")
    Path("params.yaml").write_text("train: {lr: 1}\n")
    Repo.init(str(tmp_path), no_scm=True).close()
    with Repo() as repo:
        repo.reproduce()
    assert last_run.outdated() == ""
    Path("params.yaml").write_text("train: {lr: 2}\n")
    sentence = last_run.outdated()
    assert sentence.startswith("train.lr changed since this run, so the results of train, and all"), sentence
    Path("params.yaml").write_text("train: {lr: 1}\n")
    Path("metrics").write_text("of another commit")
    assert last_run.outdated().startswith("metrics changed since this run, so the results of evaluate, and all")
