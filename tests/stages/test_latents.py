"""Latent diffusion goes through every stage of dvc.yaml, from pictures with captions to a champion that draws them."""

import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captioned import CAPTIONS, draw_pictures, halves_right
from ruamel.yaml import YAML
from run_stages import run, stage_of

from ddpm import cli, model_file
from ddpm.data.reading.dataset import read_latents, read_split
from ddpm.encoding.standardise import spread_rows
from ddpm.errors import UserError
from ddpm.generation.recipe import load_model
from ddpm.generation.reconstruction import restored_images
from ddpm.model_file import Model
from ddpm.serving import picture_request, sample_request
from ddpm.tracking.mlflow_registry import MlflowRegistry

ROOT = Path(__file__).parents[2]
SMALL: dict[str, dict[str, Any]] = {
    "data": {"source": "folder", "size": 8, "captions": True, "labels": False},
    "validate": {"min_test_images": 50},
    "features": {"dim": 16, "images": 640},
    "objective": {"bounded": False},
    "network": {"width": 16, "multipliers": [1, 2], "blocks": 1, "attention": [2], "head_channels": 16},
    "text": {"vocabulary": 300, "length": 12, "width": 16, "layers": 1, "head_channels": 8},
    "autoencoder": {"width": 8, "multipliers": [1, 1], "latent_channels": 2, "images": 4800, "lr": 0.004},
    "train": {"images": 16_000, "batch_size": 64, "warmup_images": 640, "decay_images": 4000},
    "sample": {"images": 200, "grid": 9, "guidance": 2.0},
    "evaluate": {"kid_subset_size": 20, "kid_subsets": 5, "held_out_images": 80, "during": 0},
    "promote": {"rules": [{"figure": "memorized_share", "at_most": 1.0}], "max_images": 80},
    "canary": {"max_distance": 1e9},
    "tracking": {"grid_every_images": 100_000},
    "runtime": {"progress": False, "device": "cpu", "precision": "float32", "workers": 1},
}


def write_params(**changes: Any) -> None:
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text()) | {"condition": "text", "codec": "autoencoder"}
    for section, values in SMALL.items():
        params[section] |= values
    for key, value in changes.items():
        params[key] = params[key] | value if isinstance(value, dict) else value
    YAML(typ="safe").dump(params, Path("params.yaml"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A folder in which all stages have run."""
    folder = tmp_path_factory.mktemp("latents")
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(empty_store, folder / "mlflow.db")
    for each in ("data/raw", "data/starts", "data/guides", "reports", "models"):
        (folder / each).mkdir(parents=True)
    draw_pictures(folder / "data/raw", 400)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params()
        run("configure", "prepare", "validate", "features", "calibrate", "autoencoder", "encode")
        run("train", "sample", "evaluate", "register", "report")
        yield folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="module")
def champion(project: Path) -> Model:
    (version,) = MlflowRegistry("ddpm").versions()
    assert version.tags["decision"] == "promoted", version.tags["reasons"]
    return load_model(next((project / "mlartifacts").rglob("*.safetensors")))


def test_latents_are_those_of_the_training_images_with_mean_0_and_standard_deviation_1(here: Path) -> None:
    autoencoder, images = model_file.load("models/autoencoder.safetensors"), read_split(here / "data/prepared", "train")
    latents = read_latents(here / "data/latents")
    assert latents is not None
    assert latents.autoencoder_sha256 == autoencoder.sha256
    assert latents.samples.shape == (320, 2, 4, 4)
    wide = latents.samples[:].astype(np.float64)
    assert abs(wide.mean()) < 1e-3
    assert wide.std() == pytest.approx(1, abs=1e-3)
    restored = restored_images(autoencoder, images.images[:], precision="float32", batch=100)
    assert np.abs(restored.astype(int) - images.images[:]).mean() < 12, "noise of 15 levels is lost, the halves are not"


def test_the_images_of_the_evaluation_are_decoded_and_what_their_captions_say(here: Path) -> None:
    images = np.load(here / "data/generated/images.npy")
    assert (images.dtype, images.shape) == (np.uint8, (200, 1, 8, 8))
    assert halves_right(images, json.loads((here / "data/generated/captions.json").read_text())) > 0.9


def test_the_picture_of_reconstructions_has_images_of_all_classes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out images are in the order of their classes, so the first ones are all of one class."""
    assert spread_rows(120, 40).tolist() == list(range(0, 120, 3))
    assert spread_rows(3, 40).tolist() == [0, 1, 2]
    run("encode")
    said = capsys.readouterr().out
    assert "held-out images after the autoencoder: PSNR 2" in said
    assert "FID of training images after it: " in said


def test_both_floors_stand_beside_the_metrics_and_the_figures_of_the_autoencoder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, figures = (json.loads(Path(f"reports/{name}.json").read_text()) for name in ("metrics", "autoencoder"))
    assert metrics["reconstructed"]["fid"] > metrics["floor"]["fid"]
    assert figures["psnr"] > 20
    assert figures["latents"]["std"] == pytest.approx(1, abs=0.2)
    assert cli.main(["report"]) == 0
    assert "reconstructed" in capsys.readouterr().out.splitlines()[0]
    page = Path("reports/report.html").read_text()
    assert "after the autoencoder" in page
    assert "Of 80 held-out images, against themselves" in page
    assert "rows of held-out images, with what the autoencoder restores" in page


def test_the_served_champion_draws_what_a_text_says_alone_as_in_company(champion: Model) -> None:
    for caption in CAPTIONS:
        request = sample_request.complete({"number": 8, "seed": 3, "text": caption}, champion, max_number=8)
        drawn = sample_request.draw(champion, request)
        assert halves_right(drawn.numpy(), [caption] * 8) > 0.8
        one = sample_request.complete({"number": 1, "seed": 3, "text": caption}, champion, max_number=8)
        assert (sample_request.draw(champion, one)[0] == drawn[0]).all()


def test_tasks_that_need_pixels_are_refused_and_inpainting_keeps_the_known_ones(
    champion: Model, tmp_path: Path
) -> None:
    from PIL import Image

    draw_pictures(tmp_path, 1)
    black_and_white = np.full((8, 8), 255, np.uint8)
    black_and_white[:, :4] = 0
    Image.fromarray(black_and_white).save(tmp_path / "mask.png")
    fields = {"image": tmp_path / "0000.png", "text": CAPTIONS[1], "seed": 1, "number": 2, "steps": 20}
    with pytest.raises(UserError, match=r"task denoise needs a model of pixels"):
        picture_request.complete(fields | {"task": "denoise", "noise": 20.0}, champion)
    given = np.asarray(Image.open(tmp_path / "0000.png"))
    inpainted = picture_request.complete(fields | {"task": "inpaint", "mask": tmp_path / "mask.png"}, champion)
    drawn = picture_request.draw(champion, inpainted).numpy()
    hidden = given.copy()
    hidden[:, 4:] = 200
    Image.fromarray(hidden).save(tmp_path / "0000.png")
    again = picture_request.complete(fields | {"task": "inpaint", "mask": tmp_path / "mask.png"}, champion)
    assert (picture_request.draw(champion, again).numpy() == drawn).all(), "what is painted over changes nothing"
    assert (drawn[:, 0, :, :4] == given[:, :4]).all()
    assert drawn[:, 0, :, 4:].mean() > 128, "the text says white"
    edited = picture_request.complete(fields | {"task": "edit", "strength": 0.05}, champion)
    assert np.abs(picture_request.draw(champion, edited).numpy().astype(int) - hidden).mean() < 25


def test_other_settings_of_the_diffusion_leave_the_autoencoder_as_it_is(here: Path) -> None:
    before = Path("models/autoencoder.safetensors").read_bytes()
    write_params(schedule={"shift": 2.0}, objective={"bounded": False, "weight": "simple"})
    try:
        run("autoencoder")
    finally:
        write_params()
    assert Path("models/autoencoder.safetensors").read_bytes() == before


def test_latents_of_another_autoencoder_are_refused(here: Path, tmp_path: Path) -> None:
    stage = stage_of("train")
    shutil.copytree("data/latents", tmp_path / "latents")
    facts = tmp_path / "latents/latents.json"
    facts.write_text(facts.read_text().replace(read_latents(Path("data/latents")).autoencoder_sha256[:8], "00000000"))  # type: ignore[union-attr]
    stage.paths.latents = tmp_path / "latents"
    with pytest.raises(UserError, match=r"has no latents of models/autoencoder\.safetensors; encode the images"):
        importlib.import_module("ddpm.stages.train").main(stage)


def test_an_autoencoder_that_is_given_is_used_and_one_that_does_not_fit_is_refused(here: Path) -> None:
    shutil.copy("models/model.safetensors", "data/starts/given.safetensors")
    write_params(autoencoder={"pretrained": "data/starts/given.safetensors"})
    stage = stage_of("autoencoder")
    stage.paths.autoencoder = Path("taken.safetensors")
    main = importlib.import_module("ddpm.stages.autoencoder").main
    try:
        main(stage)
        taken, own = (model_file.load(name) for name in ("taken.safetensors", "models/autoencoder.safetensors"))
        assert taken.spec == own.spec
        assert all((a == b).all() for a, b in zip(taken.network.parameters(), own.network.parameters(), strict=True))
        write_params(autoencoder={"pretrained": "elsewhere.safetensors"})
        with pytest.raises(
            UserError, match=r"autoencoder\.pretrained is elsewhere\.safetensors, expected an autoencoder"
        ):
            main(stage_of("autoencoder"))
        write_params(autoencoder={"pretrained": "data/starts"})
        with pytest.raises(UserError, match=r"autoencoder\.pretrained is data/starts, expected an auto"):
            main(stage_of("autoencoder"))
        Path("data/starts/vae").mkdir()
        write_params(autoencoder={"pretrained": "data/starts/vae"})
        with pytest.raises(UserError, match="ddpm import-codec data/starts/vae --out data/starts/vae"):
            main(stage_of("autoencoder"))
    finally:
        write_params()
