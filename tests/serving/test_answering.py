"""Served work within its bounds: what is refused before it begins, and what ends before it is done."""

import base64
import io
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from waiting import HANG_SECONDS

from ddpm import model_file
from ddpm.model_file import Model
from ddpm.sampling.catalogue import SAMPLERS
from ddpm.serving import answering
from ddpm.serving.answering import Answering
from ddpm.serving.calls import FAILED, GIVEN_UP, INVALID, TIME_UP, TOO_MUCH, Bounds, Budget, Call, RefusedError

BOUNDS = Bounds(max_work=10**6, max_work_together=2 * 10**6, max_seconds=60, max_body_bytes=10**6)
ENDLESS = {"number": 64, "sampler": "ddpm", "steps": 50}


def picture(level: int = 100, size: int = 8) -> str:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size), level, np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Model:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    tiny_model(path)
    return model_file.load(path)


def refused(answers: Answering, inputs: Any, call: Call | None = None) -> tuple[int, str]:
    with pytest.raises(RefusedError) as error:
        answers.answers(inputs, call)
    return error.value.status, str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        *({"sampler": name, "steps": 12, "number": 2} for name in SAMPLERS),
        {"steps": 7, "number": 2, "label": 1, "guidance": 2.0},
        {"task": "inpaint", "mask": picture(255), "steps": 12, "jump": 3, "resamplings": 4, "number": 2},
        {"task": "inpaint", "mask": picture(255), "steps": 5, "jump": 9, "resamplings": 4},
        {"task": "interpolate", "other": picture(30), "steps": 5, "number": 3},
        {"task": "edit", "steps": 10, "label": 2, "guidance": 1.5},
        {"task": "denoise", "noise": 40, "steps": 10},
        {"task": "super-resolution", "image": picture(size=4), "steps": 5},
    ],
    ids=lambda fields: "-".join(str(fields[name]) for name in ("task", "sampler") if name in fields),
)
def test_the_work_of_a_request_is_at_least_what_the_network_sees(model: Model, fields: dict[str, Any]) -> None:
    seen = 0

    def count(_: Any, inputs: Any) -> None:
        nonlocal seen
        seen += len(inputs[0]) * model.spec.size**2

    model.network.register_forward_pre_hook(count)
    if "task" in fields:
        fields = {"image": picture()} | fields
    answers = Answering(model, Budget(BOUNDS))
    [request] = answers._completed([fields])
    said = answering.work(request, model)
    answers.answers([fields])
    assert seen <= said
    assert seen >= said / 3, "a bound far above the work refuses what could be done"


def test_a_call_beyond_its_share_is_refused_with_the_numbers(model: Model) -> None:
    answers = Answering(model, Budget(Bounds(640, 6400, 60, 10**6)))
    assert refused(answers, [{"number": 2, "steps": 10}]) == (
        TOO_MUCH,
        "the call needs 1280 network evaluations times pixels, expected at most 640; "
        "request fewer images, steps or resamplings",
    )
    assert len(answers.answers([{"number": 1, "steps": 10}])) == 1
    assert refused(answers, [{"number": 1, "steps": 10}] * 2)[0] == TOO_MUCH


def test_what_is_free_is_never_all_taken_and_comes_back(model: Model) -> None:
    inside, leave = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        inside.set()
        leave.wait(HANG_SECONDS)

    model.network.register_forward_pre_hook(wait)
    answers = Answering(model, Budget(Bounds(1000, 2000, 60, 10**6)))
    large, small = [{"number": 1, "steps": 15}], [{"number": 1, "steps": 1}]
    thread = threading.Thread(target=answers.answers, args=(large,))
    thread.start()
    assert inside.wait(HANG_SECONDS)
    status, sentence = refused(answers, large)
    assert (status, "needs 960" in sentence, "at most 520 are free beside the 960 of running calls" in sentence) == (
        TOO_MUCH,
        True,
        True,
    )
    leave.set()
    assert len(answers.answers(small)) == 1
    thread.join()
    assert len(answers.answers(large)) == 1


def test_the_work_ends_when_its_time_is_up(model: Model) -> None:
    evaluations = 0

    def take_long(*_: Any) -> None:
        nonlocal evaluations
        evaluations += 1
        time.sleep(0.15)

    answers = Answering(model, Budget(Bounds(10**9, 10**10, 0.2, 10**6)))
    model.network.register_forward_pre_hook(take_long)
    status, sentence = refused(answers, [ENDLESS])
    assert (status, sentence) == (
        TIME_UP,
        "the images took longer than 0.2 seconds; request fewer images or steps",
    )
    assert evaluations <= 2


def test_the_work_ends_when_its_client_goes_and_others_go_on(model: Model) -> None:
    answers, call = Answering(model, Budget(BOUNDS)), Call(60)
    evaluations = 0

    def count(*_: Any) -> None:
        nonlocal evaluations
        evaluations += 1
        if evaluations == 3:
            call.give_up()

    model.network.register_forward_pre_hook(count)
    assert refused(answers, [ENDLESS], call)[0] == GIVEN_UP
    assert evaluations <= 4
    assert len(answers.answers([{"steps": 2}])) == 1


@pytest.mark.parametrize(
    "inputs",
    [
        {"number": 1},
        "text",
        5,
        None,
        [5],
        [None],
        [["number"]],
        [{}] * 65,
        [{"number": float("nan")}],
        [{"number": "9" * 10**6}],
        [{"seed": 10**4000}],
        [{"label": ["x"] * 10**5}],
        [{"task": ["edit"]}],
        [{"task": {"edit": 1}}],
        [{"sampler": ["ddim"]}],
        [{"steps": [1]}],
        [{"x" * 10**6: 1}],
        [{"task": "edit", "image": {"a": 1}}],
        [{"task": "edit", "image": "é" * 100}],
        [{"task": "edit", "image": "/etc/passwd"}],
    ],
    ids=lambda inputs: repr(inputs)[:20],
)
def test_a_wrong_type_is_one_short_sentence(model: Model, inputs: Any) -> None:
    status, sentence = refused(Answering(model, Budget(BOUNDS)), inputs)
    assert status == INVALID, sentence
    assert len(sentence) <= 410
    assert "\n" not in sentence


def test_what_goes_wrong_in_here_says_nothing_of_this_machine(model: Model) -> None:
    def fail(*_: Any) -> None:
        raise OSError(2, "No such file", "/root/secret/model.safetensors")

    model.network.register_forward_pre_hook(fail)
    status, sentence = refused(Answering(model, Budget(BOUNDS)), [{"steps": 1}])
    assert (status, sentence) == (FAILED, "the images could not be generated; see the server's log")


def test_images_that_are_not_finite_are_refused_with_the_reason(model: Model) -> None:
    def diverge(_: Any, inputs: Any, output: Any) -> Any:
        return output * math.nan

    model.network.register_forward_hook(diverge)
    status, sentence = refused(Answering(model, Budget(BOUNDS)), [{"steps": 2}])
    assert status == FAILED
    assert "not finite numbers, so the sampler diverged" in sentence
