"""Requests that wait at the same time are drawn in one batch, and nobody's images, limits or errors change by that."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from waiting import HANG_SECONDS, wait_for

from ddpm.generation.recipe import load_model
from ddpm.model_file import Model
from ddpm.serving.answering import Answering
from ddpm.serving.batching import MOST_OF_ONE
from ddpm.serving.calls import FAILED, GIVEN_UP, Bounds, Budget, Call, RefusedError

BOUNDS = Bounds(max_work=10**6, max_work_together=10**7, max_seconds=60, max_body_bytes=10**6)


@pytest.fixture
def model(tmp_path: Path, tiny_model: Callable[..., str]) -> Model:
    tiny_model(tmp_path / "model.safetensors")
    return load_model(tmp_path / "model.safetensors")


class Crowd:
    """Calls that come while the first one is held inside the network, which counts the images of each evaluation."""

    def __init__(self, model: Model) -> None:
        self.answering = Answering(model, Budget(BOUNDS))
        self.sizes: list[int] = []
        self._inside, self._leave = threading.Event(), threading.Event()
        model.network.register_forward_pre_hook(self._hold)
        self._threads = ThreadPoolExecutor(20)
        self.first = self.call(seed=99)
        self._inside.wait(HANG_SECONDS)

    def _hold(self, _: Any, inputs: Any) -> None:
        self.sizes.append(len(inputs[0]))
        self._inside.set()
        self._leave.wait(HANG_SECONDS)

    def call(self, call: Call | None = None, **fields: Any) -> "Future[list[dict[str, Any]]]":
        return self._threads.submit(self.answering.answers, [fields], call)

    def let_go(self, waiting: int) -> None:
        """When so many calls wait."""
        wait_for(lambda: len(self.answering._batching._waiting) == waiting)
        self._leave.set()


def test_calls_that_wait_together_get_the_images_that_they_get_alone(model: Model) -> None:
    asked: list[dict[str, Any]] = [
        {"seed": k, "number": 1 + k % 3, "label": k % 4 if k % 2 else None} for k in range(8)
    ]
    alone = [Answering(model, None).answers([fields]) for fields in asked]
    crowd = Crowd(model)
    calls = [crowd.call(**fields) for fields in asked]
    crowd.let_go(len(asked))
    assert [call.result() for call in calls] == alone
    steps = crowd.first.result()[0]["steps"]
    assert crowd.sizes == [1] * steps + [sum(fields["number"] for fields in asked)] * steps


def test_a_call_with_other_settings_or_many_images_waits_for_nobody(model: Model) -> None:
    crowd, waits = Crowd(model), []
    waits.append(crowd.call(seed=1))
    free = [crowd.call(steps=1), crowd.call(number=MOST_OF_ONE + 1, steps=1)]
    wait_for(lambda: sorted(crowd.sizes) == [1, 1, MOST_OF_ONE + 1])
    crowd.let_go(1)
    for call in [*free, *waits]:
        assert call.result()


def test_an_image_that_is_not_finite_fails_only_the_call_that_asked_for_it(model: Model) -> None:
    crowd = Crowd(model)

    def diverge(_: Any, inputs: Any, output: Any) -> Any:
        output[inputs[2] == 3] = math.nan
        return output

    model.network.register_forward_hook(diverge)
    good, bad = [crowd.call(seed=k, label=1) for k in range(3)], crowd.call(label=3)
    crowd.let_go(4)
    assert all(len(call.result()[0]["images"]) == 1 for call in good)
    error = bad.exception()
    assert isinstance(error, RefusedError)
    assert error.status == FAILED


def test_a_client_that_goes_ends_its_own_call_and_the_batch_only_if_all_go(model: Model) -> None:
    crowd, goes, stays = Crowd(model), Call(60), Call(60)
    gone, answered = crowd.call(goes, seed=1), crowd.call(stays, seed=2)

    def leave(_: Any, inputs: Any) -> None:
        if len(inputs[0]) == 2:
            goes.give_up()

    model.network.register_forward_pre_hook(leave)
    crowd.let_go(2)
    assert answered.result()
    error = gone.exception()
    assert isinstance(error, RefusedError)
    assert error.status == GIVEN_UP

    crowd = Crowd(model)
    both = [Call(60), Call(60)]
    calls = [crowd.call(each, seed=k) for k, each in enumerate(both)]
    wait_for(lambda: len(crowd.answering._batching._waiting) == 2)
    for each in both:
        each.give_up()
    assert all(isinstance(call.exception(), RefusedError) for call in calls), "they wait for nobody any more"
    crowd.let_go(0)
    assert crowd.first.result()


def test_work_counts_as_running_until_it_ends_also_after_its_client_has_gone(model: Model) -> None:
    crowd, goes, stays = Crowd(model), Call(60), Call(60)
    budget, works = crowd.answering._budget, []
    assert budget is not None
    calls = [crowd.call(stays, seed=1), crowd.call(goes, seed=2, number=8), crowd.call(goes, seed=3, number=8)]

    def leave(_: Any, inputs: Any) -> None:
        if len(inputs[0]) == 17:
            goes.give_up()
            wait_for(lambda: sum(call.done() for call in calls) >= 1)
            works.append(budget.work)

    model.network.register_forward_pre_hook(leave)
    crowd.let_go(3)
    steps = calls[0].result()[0]["steps"]
    assert all(isinstance(call.exception(), RefusedError) for call in calls[1:])
    assert min(works) >= 17 * steps * model.spec.size**2
    assert budget.work == 0


def test_the_time_of_an_image_is_not_told_of_calls_that_ran_beside_others(model: Model) -> None:
    crowd = Crowd(model)
    told: list[float | None] = []
    crowd.answering.listeners.append(lambda drawn: told.append(drawn.seconds))
    calls = [crowd.call() for _ in range(4)]
    crowd.let_go(4)
    for call in calls:
        call.result()
    assert told == [None] * 4
    crowd.answering.answers([{}])
    assert told[4] is not None
