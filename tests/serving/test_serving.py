"""The served model: once over HTTP as a consumer meets it, the rest in this process."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow_server import end_group
from PIL import Image
from small_recipe import recipe
from tracked_run import start
from waiting import HANG_SECONDS, wait_for

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.model_file import Model
from ddpm.promotion import commands
from ddpm.serving.sample_request import SampleRequest, complete, described, draw, labels_of
from ddpm.settings import as_dict
from ddpm.tracking import logged_model, store
from ddpm.tracking.mlflow_registry import MlflowRegistry

REGISTRY = MlflowRegistry("ddpm")


@pytest.fixture(scope="module")
def champion_server(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, tiny_model: Callable[..., str]
) -> Iterator[str]:
    """`mlflow models serve -m models:/ddpm@champion --env-manager local`, as the README says it."""
    project = tmp_path_factory.mktemp("a served project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("DVC_ROOT", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (project / "mlflow.db").write_bytes(empty_store.read_bytes())
        sha = tiny_model(project / "model.safetensors")
        tracker = start()
        bounds = {"max_work": 10**6, "max_work_together": 2 * 10**6, "max_seconds": 600, "max_body_bytes": 10**6}
        model_id = logged_model.log_model(tracker, project / "model.safetensors", model_sha256=sha, bounds=bounds)
        tracker.finish()
        figures: dict[str, Any] = {"fid": 1.0, "floor": {}, "protocol": {}}
        REGISTRY.register(sha256=sha, model_id=model_id, run_id=tracker.id, record=figures, tags={})
        commands.promote(REGISTRY, "1", reason="to serve it")
        uri = store.tracking_uri()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = str(Path(sys.executable).parent)
    process = subprocess.Popen(
        ["mlflow", "models", "serve", "-m", "models:/ddpm@champion", "--env-manager", "local", "--port", str(port)],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        env=os.environ
        | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        | {"PATH": f"{programs}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/ping"), every=0.2, process=process)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        end_group(process)


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=HANG_SECONDS).status == 200
    except OSError:
        return False


def post(url: str, body: Any) -> tuple[int, Any]:
    """Status and body of the answer."""
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=HANG_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_post_is_answered_with_png_images_of_the_asked_number_size_and_label(champion_server: str) -> None:
    request = {"number": 4, "steps": 5, "label": 3, "seed": 1, "guidance": 1.5}
    status, body = post(champion_server, {"inputs": [request]})
    assert status == 200
    [answer] = body["predictions"]
    images = [Image.open(io.BytesIO(base64.b64decode(text))) for text in answer["images"]]
    assert [(image.format, image.size, image.mode) for image in images] == [("PNG", (8, 8), "L")] * 4
    assert answer["labels"] == ["class 3"] * 4
    assert (answer["seed"], answer["steps"], answer["guidance"]) == (1, 5, 1.5)


def test_the_same_seed_gives_the_same_images_and_another_seed_others(champion_server: str) -> None:
    def images(seed: int) -> list[str]:
        _, body = post(champion_server, {"inputs": [{"number": 2, "steps": 3, "seed": seed}]})
        return body["predictions"][0]["images"]

    assert images(7) == images(7)
    assert set(images(7)).isdisjoint(images(8))


def test_over_http_the_images_are_those_of_the_command_line_to_the_bit(champion_server: str, model: Model) -> None:
    request = {"number": 5, "label": 1, "seed": 4}
    [answer] = post(champion_server, {"inputs": [request]})[1]["predictions"]
    served = [list(Image.open(io.BytesIO(base64.b64decode(text))).getdata()) for text in answer["images"]]
    assert served == draw(model, complete(request, model)).flatten(1).tolist()
    assert (answer["sampler"], answer["steps"]) == ("dpmpp_2m", 10)


def test_what_an_answer_says_of_itself_gives_the_same_images_again(champion_server: str) -> None:
    [first] = post(champion_server, {"inputs": [{}]})[1]["predictions"]
    assert len(first["images"]) == 1
    settings = {name: first[name] for name in ("seed", "sampler", "steps", "eta", "guidance")}
    [again] = post(champion_server, {"inputs": [settings]})[1]["predictions"]
    assert again["images"] == first["images"]


def encoded(pixels: list[int]) -> str:
    """8x8 of grey, as a PNG file in base64."""
    file = io.BytesIO()
    picture = Image.new("L", (8, 8))
    picture.putdata(pixels)
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_picture_and_a_mask_are_answered_with_images_that_keep_what_is_known(champion_server: str) -> None:
    given = list(range(0, 256, 4))
    request = {"task": "inpaint", "image": encoded(given), "mask": encoded([0] * 32 + [255] * 32), "number": 2}
    status, body = post(champion_server, {"inputs": [request | {"steps": 4, "seed": 1}]})
    assert status == 200
    [answer] = body["predictions"]
    made = [list(Image.open(io.BytesIO(base64.b64decode(text))).getdata()) for text in answer["images"]]
    assert [pixels[:32] for pixels in made] == [given[:32]] * 2
    assert made[0][32:] != made[1][32:]
    assert (answer["task"], answer["seed"], answer["steps"], answer["jump"]) == ("inpaint", 1, 4, 5)


def test_every_request_of_a_call_has_its_own_answer(champion_server: str) -> None:
    status, body = post(champion_server, {"inputs": [{"number": 1, "steps": 1}, {"number": 2, "steps": 1}]})
    assert status == 200
    assert [len(answer["images"]) for answer in body["predictions"]] == [1, 2]


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ([{"number": 65}], "inputs[0]: number is 65, expected a whole number from 1 to 64"),
        ([{}, {"steps": 51}], "inputs[1]: steps is 51, expected a whole number from 1 to 50"),
        ([{"label": "dog"}], "expected an index from 0 to 3 or a class of: class 0, class 1"),
        ([{"colour": "red"}], "'colour' is not a known field"),
        ([{"task": "inpaint", "image": "?"}], "inputs[0]: image is not valid base64"),
        ([{"number": 40, "steps": 1}] * 2, "the call requests 80 images, expected at most 64"),
        (["three"], "inputs[0] is a str, expected an object"),
        ([{"number": "9" * 10**6}], "number is … expected a whole number from 1 to 64"),
    ],
)
def test_a_request_out_of_bounds_is_answered_400_with_a_sentence(
    champion_server: str, inputs: list[Any], sentence: str
) -> None:
    status, body = post(champion_server, {"inputs": inputs})
    assert status == 400
    assert sentence in body["message"]
    assert not body["message"].startswith("Failed"), "MLflow repeats the call"
    assert len(json.dumps(body)) < 1000
    assert "Traceback" not in json.dumps(body)


def test_a_call_beyond_the_budget_that_the_version_carries_is_answered_429(champion_server: str) -> None:
    grey = encoded([100] * 64)
    heavy = {"task": "inpaint", "image": grey, "mask": grey, "number": 64, "steps": 50, "resamplings": 50}
    status, body = post(champion_server, {"inputs": [heavy]})
    assert (status, body["error_code"]) == (429, "REQUEST_LIMIT_EXCEEDED")
    assert body["message"] == (
        "the call needs 9236480 network evaluations times pixels, expected at most 1000000; "
        "request fewer images, steps or resamplings"
    )
    assert post(champion_server, {"inputs": [{"number": 64, "steps": 50}]})[0] == 200


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Model:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny_model(path)
    return model_file.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", 0),
        ("number", 65),
        ("number", 2.0),
        ("number", True),
        ("number", "4"),
        ("steps", 0),
        ("steps", 51),
        ("label", 4),
        ("label", -1),
        ("label", "dog"),
        ("label", 1.0),
        ("seed", -1),
        ("seed", 2**63),
        ("guidance", -0.1),
        ("guidance", 20.1),
        ("guidance", float("nan")),
        pytest.param("guidance", 10**400, id="beyond any float"),
        ("guidance", "high"),
        ("eta", 1.1),
        ("sampler", "euler"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_name_and_value(model: Model, field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{field} is ") as error:
        complete({field: value}, model)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("number", 64), ("steps", 1), ("steps", 50), ("seed", 2**63 - 1), ("guidance", 0), ("guidance", 20), ("eta", 1)],
)
def test_a_value_at_its_bound_is_taken(model: Model, field: str, value: Any) -> None:
    assert described(complete({"sampler": "ddim", "number": 1, field: value}, model), model).get(field, value) == value


def test_no_more_evaluations_are_walked_than_steps_are_asked_for(model: Model) -> None:
    longer = replace(model, recipe=as_dict(recipe(langevin={"steps": 7})))
    with pytest.raises(
        UserError, match=r"steps is 7, but langevin takes langevin\.steps \(7\) at every noise level and one at the end"
    ):
        complete({"sampler": "langevin", "steps": 7}, longer)
    assert complete({"sampler": "langevin", "steps": 8}, longer).recipe.steps == 8


def test_a_sampler_that_cannot_begin_in_pure_noise_is_refused(model: Model) -> None:
    ends_in_noise = replace(model.spec.schedule, zero_terminal_snr=True)
    noisy = replace(model, spec=replace(model.spec, schedule=ends_in_noise))
    with pytest.raises(UserError, match=r"^sampler is langevin.*zero_terminal_snr true this share is 0 at x_T"):
        complete({"sampler": "langevin"}, noisy)
    assert complete({"sampler": "ddim"}, noisy).recipe.sampler == "ddim"


def test_a_label_is_a_class_by_index_or_by_name(model: Model) -> None:
    assert complete({"label": 2}, model).label == complete({"label": "class 2"}, model).label == 2


def test_a_null_is_a_blank(model: Model) -> None:
    blank = dict.fromkeys(("number", "label", "steps", "guidance", "sampler", "eta"))
    assert complete(blank | {"seed": 3}, model) == complete({"seed": 3}, model)


def test_without_a_seed_every_call_draws_its_own(model: Model) -> None:
    assert complete({}, model).seed != complete({}, model).seed


def test_the_steps_asked_for_by_default_never_exceed_those_of_the_schedule(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "m.safetensors", schedule={"name": "cosine", "T": 10})
    assert complete({}, model_file.load(tmp_path / "m.safetensors")).recipe.steps == 10


def test_without_a_label_the_classes_come_in_turn_whatever_the_number(model: Model) -> None:
    six, two = (labels_of(complete({"number": n}, model), model) for n in (6, 2))
    assert six is not None
    assert two is not None
    assert six.tolist() == [0, 1, 2, 3, 0, 1]
    assert torch.equal(six[:2], two)


def test_an_image_does_not_depend_on_how_many_are_asked_for(model: Model) -> None:
    one, three = (draw(model, complete({"number": n, "seed": 5, "steps": 4}, model)) for n in (1, 3))
    assert torch.equal(one[0], three[0])


def test_a_request_changes_what_it_names_and_keeps_the_rest_of_the_recipe(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    changes = {"steps": 7, "ddim": {"eta": 0.5}, "unipc": {"order": 3}, "guidance": 2.0, "threshold": 0.9}
    tiny_model(tmp_path / "m.safetensors", recipe=changes)
    own = model_file.load(tmp_path / "m.safetensors")
    assert complete({"steps": 3}, own).recipe == recipe(**changes | {"steps": 3})
    assert complete({"sampler": "unipc"}, own).recipe == recipe(**changes | {"sampler": "unipc"})
    assert complete({"eta": 0.1}, own).recipe == recipe(**changes | {"ddim": {"eta": 0.1}})
    unbounded = replace(own, recipe=as_dict(recipe(**changes | {"threshold": None})))
    fields = {"seed": 1, "number": 2, "steps": 3}
    assert not torch.equal(draw(own, complete(fields, own)), draw(unbounded, complete(fields, unbounded)))


def fields_of(request: SampleRequest, model: Model) -> dict[str, Any]:
    """The fields by which the request is asked for again, from what an answer says."""
    answer = described(request, model)
    del answer["labels"]
    return answer | {"number": request.number, "label": request.label}


def test_an_eta_that_the_sampler_does_not_read_is_refused(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    tiny_model(tmp_path / "m.safetensors", recipe={"steps": 7, "ddim": {"eta": 0.5}})
    own = model_file.load(tmp_path / "m.safetensors")
    with pytest.raises(
        UserError, match=r"^eta is 0\.3, which unipc does not use; leave it out or set sampler to ddim$"
    ):
        complete({"sampler": "unipc", "eta": 0.3}, own)
    assert complete({"eta": 0.3}, own).recipe.ddim.eta == 0.3
    answered = complete({"sampler": "unipc"}, own)
    assert complete(fields_of(answered, own), own) == answered


def test_a_file_that_does_not_say_how_it_draws_asks_for_sampler_and_steps(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "m.safetensors", recipe=None)
    bare = model_file.load(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="has no recipe, expected sampler and steps in the request"):
        complete({"steps": 3}, bare)
    assert draw(bare, complete({"steps": 3, "sampler": "ddim"}, bare)).shape == (1, 1, 8, 8)


def test_label_and_guidance_change_the_image(model: Model) -> None:
    def image(**fields: Any) -> torch.Tensor:
        return draw(model, complete({"seed": 5, "steps": 4} | fields, model))

    assert not torch.equal(image(label=0), image(label=1))
    assert not torch.equal(image(label=0), image(label=0, guidance=4.0))


def test_a_model_without_classes_takes_no_label_and_no_guidance(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    tiny_model(tmp_path / "m.safetensors", classes=[], channels=3)
    plain = model_file.load(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="has no classes; leave it out"):
        complete({"label": 0}, plain)
    with pytest.raises(UserError, match="trained without classes"):
        complete({"guidance": 2.0}, plain)
    assert draw(plain, complete({"number": 2, "steps": 2}, plain)).shape == (2, 3, 8, 8)


def test_a_model_trained_without_label_dropout_takes_no_guidance(
    tmp_path: Path, tiny_model: Callable[..., str], model: Model
) -> None:
    tiny_model(tmp_path / "m.safetensors", unconditional=False)
    with pytest.raises(UserError, match="trained without label dropout"):
        complete({"guidance": 2.0}, model_file.load(tmp_path / "m.safetensors"))


def test_a_completed_request_is_its_own_completion(model: Model) -> None:
    request = complete({"number": 3, "label": "class 1", "guidance": 2.0}, model)
    assert complete(fields_of(request, model), model) == request
