"""The register stage on real digits with untrained models: first champion, another protocol, the same model again."""

import argparse
import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from degraded import DEGRADATIONS, IMAGE, image_of_spec
from keys import key_pair
from PIL import Image
from ruamel.yaml import YAML

from ddpm import cli
from ddpm.data.reading.dataset import read_facts, read_split
from ddpm.errors import UserError
from ddpm.generation.generate import evaluation_pictures
from ddpm.params import load as load_params
from ddpm.promotion import commands, registry
from ddpm.settings import as_dict
from ddpm.signing.signature import KEY_VARIABLE, PASSWORD_VARIABLE
from ddpm.stages import evaluate, prepare, register
from ddpm.stages import sample as stage_sample
from ddpm.stages.stage import Stage
from ddpm.tracking import run_json, store, training_run
from ddpm.tracking.logged_model import log_model
from ddpm.tracking.mlflow_registry import MlflowRegistry

REGISTRY = MlflowRegistry("ddpm")

ROOT = Path(__file__).parents[2]
SMALL = {
    "features": {"dim": 16, "images": 1280},
    "evaluate": {"kid_subset_size": 20, "kid_subsets": 5},
    "promote": {"rules": [{"figure": "fid", "better_by": 0.02}], "max_images": 200},
    "canary": {"max_start_seconds": 3600, "max_seconds": 600},
    "runtime": {"progress": False, "device": "cpu", "precision": "float32"},
}
SAMPLE = {"sampler": "ddim", "time_grid": "uniform", "steps": 2, "images": 100, "grid": 9}
SAMPLE_RECIPE = {"sampler": "ddim", "steps": 2}
DIGITS = {"classes": [str(k) for k in range(10)]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the digits prepared, an extractor, and parameters for small things."""
    from ddpm.measuring.features.extractor_file import save
    from ddpm.measuring.features.extractor_training import train_extractor

    folder = tmp_path_factory.mktemp("digits")
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "params.yaml").read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    yaml.dump(params, folder / "params.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("data/raw").mkdir(parents=True)
        run_main(prepare.main, prepared="data/prepared", state=".state/prepare")
        for kind, name in (("classifier", "extractor"), ("rotation", "second")):
            extractor = train_extractor(
                read_split(Path("data/prepared"), "train"),
                read_split(Path("data/prepared"), "test"),
                kind=kind,
                classes=10,
                settings=load_params().features,
                device=torch.device("cpu"),
                progress=False,
            )
            save(extractor, Path(f"{name}.safetensors"))
    return folder


def run_main(main: Callable[[Stage], None], **paths: str) -> None:
    main(Stage(argparse.Namespace(**{name: Path(path) for name, path in paths.items()})))


class Pipeline:
    """A project with an untrained model, and the real stages from `sample` on."""

    def __init__(self, project: Path, tiny_model: Callable[..., str], patch: pytest.MonkeyPatch) -> None:
        self.project, self.tiny_model, self.patch = project, tiny_model, patch

    def params(self, **sample: Any) -> None:
        yaml = YAML(typ="safe")
        params = yaml.load(Path("params.yaml").read_text())
        params["sample"] |= SAMPLE | sample
        params["condition"] = "image" if "base" in sample or "picture_noise" in sample else "label"
        params["image"] |= IMAGE
        yaml.dump(params, Path("params.yaml"))

    def train(self, network: int, *, spec: dict[str, Any] = DIGITS, **sample: Any) -> None:
        """What the stage `train` leaves, of another network for each number; then its images and its figures."""
        sha = self.tiny_model(Path("model.safetensors"), seed=network, recipe=None, **spec)
        tracker = training_run.start_run(
            experiment="tests",
            name=f"training {network}",
            facts=read_facts(Path("data/prepared")),
            prepared=Path("data/prepared"),
        )
        tracker.finish()
        Path("run.json").write_text(json.dumps(run_json.run_record(tracker, model_sha256=sha)))
        self.measure(**sample)

    def measure(self, **sample: Any) -> dict[str, Any]:
        """The stages `sample` and `evaluate`."""
        self.params(**sample)
        common = {"prepared": "data/prepared", "model": "model.safetensors", "run": "run.json", "images": "generated"}
        made = {"grid": "grid.png", "animation": "reverse.gif", "report": "sample.json", "guides": "guides"}
        run_main(stage_sample.main, **common, **made)
        made = {"metrics": "metrics.json", "neighbours": "near.png", "likelihood": "bits.json", "terms": "bits.csv"}
        run_main(evaluate.main, **common, **made, extractor="extractor.safetensors", second="second.safetensors")
        return json.loads(Path("metrics.json").read_text())

    def register(self) -> None:
        options = {"extractor": "extractor.safetensors", "model": "model.safetensors", "run": "run.json"}
        options |= {"guides": "guides", "second": "second.safetensors"}
        options |= {"guides": "guides", "images": "generated", "likelihood": "bits.json", "reactions": "reactions.json"}
        run_main(
            register.main,
            prepared="data/prepared",
            metrics="metrics.json",
            grid="grid.png",
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
    pipeline.train(0)
    pipeline.register()
    said = capsys.readouterr().out
    assert "ddpm version 1 is the champion now" in said
    assert "there is no champion to compare with" in said
    assert "canary: 8 of 8 kept pictures were drawn again bit for bit" in said
    first = registry.version(REGISTRY, "1")
    assert (first.tags["channels"], first.tags["size"]) == ("1", "8")
    assert len(first.origin()["classes"]) == 10
    assert first.origin()["facts"]["content_hash"]
    assert first.record() == json.loads(Path("metrics.json").read_text())
    assert first.record()["fid_second"] > first.record()["floor"]["fid_second"] > 0
    assert first.record()["interval"].keys() >= {"fid_second", "kid_second"}
    assert first.record()["protocol"]["second"]["name"] == "rotation-16"

    pipeline.register()
    assert "it is the champion already: nothing to decide" in capsys.readouterr().out

    by_new_protocol = pipeline.measure(images=120)
    pipeline.train(1, images=120, sampler="ddpm")
    pipeline.register()
    said = capsys.readouterr().out
    assert "measuring champion 1 again by the candidate's protocol" in said
    again = registry.version(REGISTRY, "1").records()[-1]
    assert again == by_new_protocol  # the same images, drawn by its own recipe from the registry's copy of the model
    candidate = registry.version(REGISTRY, "2")
    assert candidate.tags["decided_against"] == "1"
    [rule] = candidate.rules()
    new, old = json.loads(Path("metrics.json").read_text())["fid"], again["fid"]
    if rule["difference"]["value"] == pytest.approx(new - old):  # decided at the first look
        assert rule["champion"]["value"] == pytest.approx(old)
    assert candidate.tags["decision"] == ("promoted" if rule["outcome"] == "passed" else "kept")
    assert rule["sentence"] in said

    pipeline.register()
    assert "measuring champion" not in capsys.readouterr().out
    assert [v.number for v in REGISTRY.versions()] == ["2", "1"]


def test_a_model_of_pictures_becomes_champion_and_restores(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str], spec_with: Any
) -> None:
    pipeline.train(0, spec=image_of_spec(), picture_noise=5.0)
    pipeline.register()
    said = capsys.readouterr().out
    assert "ddpm version 1 is the champion now" in said
    assert "canary: 8 of 8 kept pictures were drawn again bit for bit" in said
    images = np.load("generated/images.npy")
    pictures = evaluation_pictures(
        spec_with(**image_of_spec()), n=100, seed=0, images=read_split(Path("data/prepared"), "test").images, noise=5.0
    )
    fields = pictures.picture(0).fields()
    Path("small.png").write_bytes(base64.b64decode(fields["image"]))
    restore = ["restore", "--task", DEGRADATIONS[0], "--image", "small.png", "--seed", "0", "--out"]
    assert cli.main([*restore, "restored"]) == 0
    with Image.open("restored/000000.png") as picture:
        assert (np.asarray(picture) == images[0, 0]).all(), "the image of the evaluation, drawn of the same picture"
    assert cli.main([*restore[:2], "deblur", "--blur", "1", *restore[3:], "blurred"]) == 1
    assert "task is deblur, but this model was trained for super-resolution by 2, inp" in capsys.readouterr().err
    assert cli.main(["sample", "--out", "new"]) == 1
    assert "this model draws from a picture, which the request has not" in capsys.readouterr().err


def test_a_cascade_of_two_registered_models_becomes_champion_and_draws(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    register_small(pipeline)
    pipeline.train(0, spec=image_of_spec(), base="models:/small@champion")
    labels = np.load("generated/labels.npy")
    assert np.bincount(labels).tolist() == [10] * 10, "those of the base"
    pipeline.register()
    said = capsys.readouterr().out
    assert "ddpm version 1 is the champion now" in said
    assert "canary: 8 of 8 kept pictures were drawn again bit for bit" in said
    version = registry.version(REGISTRY, "1")
    assert len(version.origin()["classes"]) == 10
    assert cli.main(["sample", "--number", "3", "--label", "7", "--seed", "4", "--out", "sevens"]) == 0
    pipeline.patch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri())
    served = mlflow.pyfunc.load_model("models:/ddpm@champion")
    (answer,) = served.predict([{"number": 3, "label": 7, "seed": 4}])
    for k, content in enumerate(answer["images"]):
        with Image.open(f"sevens/{k:06d}.png") as one, Image.open(io.BytesIO(base64.b64decode(content))) as other:
            assert (np.asarray(one) == np.asarray(other)).all()
    for wrong, sentence in (
        ("models:/small@best", "sample.base is models:/small@best, which is not at"),
        ("models:/small", "sample.base is models:/small, expected models:/NAME@ALIAS or models:/NAME/NUMBER"),
        ("elsewhere/base.safetensors", "sample.base is elsewhere/base.safetensors, expected a registered version"),
    ):
        with pytest.raises(UserError, match=sentence):
            pipeline.measure(base=wrong)


def register_small(pipeline: Pipeline) -> None:
    """An untrained base of images of half the size, the champion of the registered model `small`."""
    sha = pipeline.tiny_model(Path("small.safetensors"), seed=7, size=4, recipe=SAMPLE_RECIPE, **DIGITS)
    tracker = training_run.start_run(
        experiment="tests", name="small", facts=read_facts(Path("data/prepared")), prepared=Path("data/prepared")
    )
    bounds = as_dict(load_params().serve)
    model_id = log_model(tracker, Path("small.safetensors"), model_sha256=sha, metrics={"fid": 1.0}, bounds=bounds)
    tracker.finish()
    measured = {"fid": 1.0, "protocol": {}}
    MlflowRegistry("small").register(
        sha256=sha, model_id=model_id, run_id=tracker.id, record=measured, tags={}, origin={}, picture=None
    )
    store.connect().set_registered_model_alias("small", "champion", "1")


def test_the_command_gate_prints_the_verdict_of_every_rule_and_changes_nothing(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files, without a registry."""
    Path("dvc.yaml").write_text(
        "stages: {register: {cmd: register --prepared data/prepared --extractor extractor.safetensors "
        "--second second.safetensors --reactions reactions.json}}"
    )
    pipeline.params()
    for seed in (0, 1):
        pipeline.tiny_model(Path(f"{seed}.safetensors"), seed=seed, recipe=SAMPLE_RECIPE, **DIGITS)
    assert cli.main("gate 0.safetensors 1.safetensors --images 100 --max-images 200 --device cpu".split()) == 0
    printed = capsys.readouterr().out
    assert "FID better by 2%" in printed
    assert "nothing was changed" in printed
    assert REGISTRY.versions() == []
    assert cli.main("gate 0.safetensors 0.safetensors --images 100 --device cpu".split()) == 0
    assert "would not be promoted" in capsys.readouterr().out


@pytest.mark.slow
def test_a_version_that_was_rolled_back_is_reconsidered_by_command(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dvc.yaml").write_text(
        "stages: {register: {cmd: register --prepared data/prepared --extractor extractor.safetensors "
        "--second second.safetensors --reactions reactions.json}}"
    )
    for network in (0, 1):
        pipeline.train(network)
        pipeline.register()
    if (there := registry.champion(REGISTRY)) is not None and there.number == "1":
        commands.promote(REGISTRY, "2", reason="by hand")
    commands.rollback(REGISTRY, reason="blurred")
    pipeline.register()
    assert "it was rolled back (blurred)" in capsys.readouterr().out
    words = ["reconsider", "2", "--reason", "it was the camera", "--by", "Ann", "--device", "cpu"]
    assert cli.main(words) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "Ann asked to reconsider it: it was the camera" in said
    decided = registry.version(REGISTRY, "2").tags
    assert decided["decided_by"] == "gate, asked by Ann"
    assert decided["decided_against"] == "1"
    assert decided["decision"] in ("promoted", "kept")
    last = REGISTRY.history()[-1] if decided["decision"] == "promoted" else REGISTRY.rulings()[-1]
    assert (last.version, last.by) == ("2", "gate, asked by Ann")


@pytest.mark.slow
def test_gate_and_reconsider_measure_bits_per_dimension_as_the_evaluation_does(
    pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dvc.yaml").write_text(
        "stages: {register: {cmd: register --prepared data/prepared --extractor extractor.safetensors "
        "--second second.safetensors --reactions reactions.json}}"
    )
    yaml = YAML(typ="safe")
    params = yaml.load(Path("params.yaml").read_text())
    params["evaluate"]["bits_per_dim"] = 3
    params["promote"]["rules"] = [
        {"figure": "bits_per_dim_bound", "at_most": 1000.0},
        {"figure": "bits_per_dim_ode", "better_by": 0.5},
    ]
    yaml.dump(params, Path("params.yaml"))
    for network in (0, 1):
        pipeline.train(network)
        pipeline.register()
    bound, ode = (rule["candidate"]["value"] for rule in registry.version(REGISTRY, "2").rules())
    capsys.readouterr()
    assert cli.main("gate 2 1 --device cpu".split()) == 0
    said = capsys.readouterr().out
    assert "was not measured" not in said
    assert f"{bound:.4g}"[:4] in said
    assert cli.main(["reconsider", "2", "--reason", "again", "--device", "cpu"]) == 0
    again = [rule["candidate"]["value"] for rule in registry.version(REGISTRY, "2").rules()]
    assert again == pytest.approx([bound, ode])
    assert json.loads(Path("bits.json").read_text())["bound"] == pytest.approx(bound)


def test_a_version_is_signed_when_it_is_registered_and_again_if_it_is_registered_again(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = key_pair(tmp_path, "ours", password="open sesame")
    monkeypatch.setenv(KEY_VARIABLE, str(keys.private))
    monkeypatch.setenv(PASSWORD_VARIABLE, "open sesame")
    pipeline.train(0)
    pipeline.register()
    version = registry.version(REGISTRY, "1")
    signed = REGISTRY.verify(version, keys.public)
    assert {"artifacts/model.safetensors", "README.md", "metrics.json", "origin.json", "kept.safetensors"} < set(signed)
    monkeypatch.delenv(KEY_VARIABLE)
    capsys.readouterr()
    pipeline.register()
    assert (
        "version 1 was signed before and what was signed is written anew, but DDPM_SIGNING_KEY"
        in capsys.readouterr().out
    )


def test_a_model_whose_run_the_store_does_not_know_is_not_registered(pipeline: Pipeline) -> None:
    pipeline.train(0)
    record = json.loads(Path("run.json").read_text())
    Path("run.json").write_text(json.dumps(record | {"model_sha256": "0" * 64}))
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI"):
        pipeline.register()
    assert REGISTRY.versions() == []


UNUSUAL = {
    "time_grid": "quadratic",
    "steps": 5,
    "guidance": 2.0,
    "guidance_interval": [0.1, 50.0],
    "guidance_rescale": 0.3,
    "threshold": 0.9,
    "guide": "guides/weaker.safetensors",
    "seed": 7,
}


def drawn_by_the_command(out: str, *words: str) -> torch.Tensor:
    """uint8 [N,8,8]"""
    assert cli.main(["sample", "--out", out, "--device", "cpu", *words]) == 0
    return torch.stack([as_tensor(Image.open(file)) for file in sorted(Path(out).iterdir())])


def as_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.tensor(list(picture.getdata()), dtype=torch.uint8).view(8, 8)


def test_what_is_measured_is_what_everybody_draws_bit_for_bit(
    pipeline: Pipeline, tiny_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model(Path("guides/weaker.safetensors"), seed=9, recipe=None, **DIGITS)
    pipeline.train(0, **UNUSUAL)
    pipeline.register()
    Path("guides/weaker.safetensors").unlink()  # the version brings it along
    Path("model.safetensors").unlink()
    Path("params.yaml").rename("elsewhere.yaml")

    of_class = torch.from_numpy(np.load("generated/labels.npy"))[:40] == 3
    measured = torch.from_numpy(np.load("generated/images.npy"))[:40, 0][of_class]
    assert len(measured) >= 2
    wanted = ["--number", "40", "--label", "3", "--seed", "7"]
    assert torch.equal(drawn_by_the_command("threes", *wanted)[of_class], measured)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.tracking_uri())
    served = mlflow.pyfunc.load_model("models:/ddpm@champion")
    [answer] = served.predict([{"number": 40, "label": 3, "seed": 7}])
    pictures = [as_tensor(Image.open(io.BytesIO(base64.b64decode(text)))) for text in answer["images"]]
    assert torch.equal(torch.stack(pictures)[of_class], measured)
    assert (answer["sampler"], answer["steps"], answer["guidance"]) == ("ddim", 5, 2.0)

    other = drawn_by_the_command("other", *wanted, "--guidance", "1")
    assert not torch.equal(other[of_class], measured)


@pytest.mark.slow
def test_other_settings_of_the_same_weights_are_another_version_and_the_same_settings_the_same(
    pipeline: Pipeline,
) -> None:
    pipeline.train(0)
    pipeline.register()
    first = registry.version(REGISTRY, "1")
    pipeline.measure(steps=3)
    pipeline.register()
    assert [v.number for v in REGISTRY.versions()] == ["2", "1"]
    kept = registry.version(REGISTRY, "1").record()
    assert kept == first.record()
    second = registry.version(REGISTRY, "2")
    assert second.tags["decided_against"] == "1"
    [measured] = second.records()
    assert (measured["protocol"]["drawing"]["sampler"], measured["protocol"]["drawing"]["steps"]) == ("ddim", 3)
    assert second.tags["weights_sha256"] == first.tags["weights_sha256"]

    pipeline.measure(steps=2)
    pipeline.register()
    assert [v.number for v in REGISTRY.versions()] == ["2", "1"]
    assert registry.version(REGISTRY, "1").record() == kept


def test_a_guide_that_is_another_file_now_is_not_registered_with_the_figures_of_the_former(
    pipeline: Pipeline, tiny_model: Callable[..., str]
) -> None:
    tiny_model(Path("guides/weaker.safetensors"), seed=9, recipe=None, **DIGITS)
    pipeline.train(0, guidance=2.0, guide="guides/weaker.safetensors")
    tiny_model(Path("guides/weaker.safetensors"), seed=10, recipe=None, **DIGITS)
    with pytest.raises(UserError, match=r"guides has no file with sha256 \w+…, the guide with which"):
        pipeline.register()
    tiny_model(Path("weaker.safetensors"), seed=9, recipe=None, **DIGITS)
    with pytest.raises(UserError, match=r"sample\.guide is weaker.*, expected a file in guides"):
        pipeline.measure(guidance=2.0, guide="weaker.safetensors")
