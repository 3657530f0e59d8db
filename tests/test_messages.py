"""What a new user reads: mistakes get a correction, waiting has a bar, and advice can be followed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from ddpm import cli, few_images, model_file
from ddpm.compute import hardware
from ddpm.compute.cores import cores as cores_available
from ddpm.exchange.diffusers_folder import why_not_exported
from ddpm.params import Params
from ddpm.params import load as load_params
from ddpm.serving.picture_request import complete, draw, network_calls
from ddpm.training.spec import spec_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "data" / "raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("sampel", "error: sampel is no command; did you mean sample?\n"),
        ("xyzzy", "error: xyzzy is no command; `ddpm` lists all\n"),
        ("a\nb", "error: a\\nb is no command; `ddpm` lists all\n"),
    ],
)
def test_a_mistyped_command_is_corrected(word: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 2
    assert capsys.readouterr().err == says


def test_a_mistyped_key_is_corrected(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("  warmup_images:", "  warmup_image:"))
    assert cli.main(["plan"]) == 1
    assert "train.warmup_image is not a known key; did you mean train.warmup_images?" in capsys.readouterr().err


def test_look_says_what_it_has_looked_at(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["look"]) == 0
    assert "data.source is digits, so data/raw is not searched" in capsys.readouterr().out


def test_configure_names_the_preparation_before_the_plan(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["configure", "few"]) == 0
    said = capsys.readouterr().out
    assert said.index("dvc repro prepare") < said.index("ddpm plan")


def facts(folder: Path, *, train: int, test: int) -> None:
    """The facts of prepared data with these numbers of images."""
    from dataclasses import asdict

    from ddpm.data.reading.dataset import Facts
    from ddpm.files import write_json

    known = dict.fromkeys(Facts.__dataclass_fields__)
    values = known | {"train": train, "test": test, "size": 16, "channels": 3, "classes": [], "rejected": {}}
    write_json(folder / "data" / "prepared" / "dataset.json", asdict(Facts(**values)))


def test_fit_lowers_the_limits_that_few_images_break_and_nothing_else(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["configure", "--fit"]) == 1
    assert "prepare them with `dvc repro prepare`" in capsys.readouterr().err
    facts(project, train=60, test=30)
    before = load_params("params.yaml")
    warned = few_images.warning(before, train=60, test=30)
    assert warned is not None
    assert "lower these by `ddpm configure --fit`" in warned
    assert cli.main(["configure", "--fit"]) == 0
    said = capsys.readouterr().out
    assert "validate.min_train_images: 200 -> 60" in said
    assert "features.dim: 64 -> 29" in said
    after = load_params("params.yaml")
    assert few_images.broken(after, train=60, test=30) == []
    assert (after.train, after.sample) == (before.train, before.sample)
    assert cli.main(["configure", "--fit"]) == 0
    assert "nothing was changed" in capsys.readouterr().out


def test_too_few_images_for_any_limit_are_said_with_what_helps(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts(project, train=40, test=10)
    text = Path("params.yaml").read_bytes()
    assert cli.main(["configure", "--fit"]) == 1
    said = capsys.readouterr().err
    assert "the metrics need 17 of both; have more images, or raise data.test_fraction to 0.34" in said
    assert Path("params.yaml").read_bytes() == text


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = cores_available()
    monkeypatch.setattr("os.getloadavg", lambda: (0.9 * cores, 0.0, 0.0))
    assert hardware.busy_sentence() is None
    monkeypatch.setattr("os.getloadavg", lambda: (3.0 * cores, 0.0, 0.0))
    sentence = hardware.busy_sentence()
    assert sentence is not None
    assert f"(load {3.0 * cores:.1f} on {cores} cores)" in sentence
    assert "up to 4 times too long" in sentence


def params_with(**network: object) -> Params:
    from ddpm.params import validate

    values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    values["network"] |= network
    return validate(values, source="params.yaml")


def test_that_a_model_cannot_be_exported_is_known_before_its_training() -> None:
    def reason(params: Params) -> str | None:
        sections = {name: getattr(params, name) for name in ("schedule", "objective", "network", "train")}
        return why_not_exported(spec_of(channels=1, size=8, classes=("0", "1"), **sections))

    default = reason(params_with())
    assert default is not None
    assert "only a new training, with network.groups 8, changes that" in default
    assert reason(params_with(groups=8)) is None


@pytest.mark.parametrize(
    ("fields", "guidance"),
    [
        ({"task": "interpolate"}, 1.0),
        ({"task": "inpaint", "jump": 1, "resamplings": 2}, 1.0),
        ({"task": "edit", "label": 1}, 2.0),
    ],
)
def test_the_bar_of_a_picture_command_ends_where_its_work_ends(
    tiny_model: Callable[..., str], tmp_path: Path, fields: dict[str, object], guidance: float
) -> None:
    def picture(path: Path, value: int) -> Path:
        Image.new("L", (8, 8), value).save(path)
        return path

    tiny_model(tmp_path / "model.safetensors")
    model = model_file.load(tmp_path / "model.safetensors")
    given = {"image": picture(tmp_path / "a.png", 0), "number": 2, "steps": 4, "seed": 0, "guidance": guidance}
    if fields["task"] == "interpolate":
        given["other"] = picture(tmp_path / "b.png", 255)
    if fields["task"] == "inpaint":
        given["mask"] = picture(tmp_path / "m.png", 255)
    request = complete(given | fields, model, max_number=10)
    calls: list[int] = []
    model.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        draw(model, request)
    assert 0 < len(calls) <= network_calls(request)
    assert len(calls) >= 0.5 * network_calls(request)


def test_a_picture_of_another_kind_is_refused_before_the_model_is_read(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sample", "--model", "none.safetensors", "--out", "x.jpg"]) == 1
    assert "x.jpg would be a .jpg file, expected a .png file or a new folder" in capsys.readouterr().err
    assert not Path("x.jpg").exists()
