"""A VAE or a GAN draws new images for clients; what needs noise levels is refused in one sentence."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from site_of_models import RECORD, Files, served_from

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.exchange.diffusers_folder import why_not_exported
from ddpm.generation.recipe import load_model
from ddpm.model_file import Model
from ddpm.model_spec import Spec, build_network
from ddpm.networks.settings import CONVENTION, Gan, Vae
from ddpm.params import load as load_params
from ddpm.serving import page, picture_request, sample_request
from ddpm.serving.answering import Answering
from ddpm.training.start import Parent, take_over

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
DIFFUSION = Spec(
    channels=1,
    size=8,
    classes=("0", "1", "2"),
    unconditional=True,
    schedule=PARAMS.schedule,
    objective=PARAMS.objective,
    network=dataclasses.replace(PARAMS.network, width=8, head_channels=8),
    convention=CONVENTION,
)
SPECS = {
    "a VAE": dataclasses.replace(DIFFUSION, method="vae", vae=Vae(width=8, blocks=1, latent_channels=4, latent_size=1)),
    "a GAN": dataclasses.replace(DIFFUSION, method="gan", gan=Gan(width=8, latent=4, r1_gamma=1.0, beta1=0.0)),
}
SENTENCE = r"needs noise levels, but this model is a (VAE|GAN), which draws in one evaluation and has none"


def write(kind: str, path: Path) -> Path:
    torch.manual_seed(0)
    model_file.save(path, network=build_network(SPECS[kind]), spec=SPECS[kind], lineage={})
    return path


@pytest.fixture(params=SPECS)
def model(request: Any, tmp_path: Path) -> Model:
    return load_model(write(request.param, tmp_path / "model.safetensors"))


def test_an_answer_has_the_fields_that_draw_the_same_images_again(model: Model) -> None:
    answering = Answering(model, None)
    (answer,) = answering.answers([{"number": 3, "label": "1"}])
    assert (answer["sampler"], answer["steps"], len(answer["images"])) == ("direct", 1, 3)
    again = {key: answer[key] for key in ("number", "label", "seed", "sampler", "steps", "eta", "guidance")}
    assert answering.answers([again])[0]["images"] == answer["images"]


@pytest.mark.parametrize("field", [{"steps": 5}, {"sampler": "ddim"}, {"guidance": 2.0}, {"eta": 0.5}, {"frames": 9}])
def test_a_field_of_samplers_is_refused(model: Model, field: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^{next(iter(field))} {SENTENCE}"):
        sample_request.complete(field, model)


@pytest.mark.parametrize("task", picture_request.TASKS)
def test_a_task_on_a_picture_is_refused(model: Model, task: str) -> None:
    with pytest.raises(UserError, match=rf"^task {task} {SENTENCE}"):
        picture_request.complete({"task": task}, model)


def test_export_and_start_are_refused(model: Model) -> None:
    reason = why_not_exported(model.spec)
    assert reason is not None
    assert "needs noise levels" in reason
    parent = Parent({"name": "champion", "sha256": "0"}, model)
    with pytest.raises(UserError, match=rf"^train\.start is champion, a model of method {model.spec.method}, which"):
        take_over(build_network(DIFFUSION), DIFFUSION, parent)


@pytest.mark.parametrize("kind", SPECS)
def test_the_page_has_only_the_form_that_works(kind: str, tmp_path: Path) -> None:
    write(kind, tmp_path / "1.safetensors")
    files = Files(tmp_path)
    files.register(RECORD)
    files.move(action="promote", version="1", by="Ann", reason="first")
    models = served_from(files)
    models.look()
    text = page.page(models).content.decode()
    assert 'id="generate"' in text
    assert "draws in one evaluation" in text
    for gone in ('id="inpaint"', 'href="#restore"', 'name="steps"', 'name="sampler"', 'name="frames"', "data-use"):
        assert gone not in text, gone
