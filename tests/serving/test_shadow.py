"""The shadow, a second version, draws again what the champion drew; if it fails or is slow, no answer changes."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from site_of_models import Files, Site, running, served_from, two_versions
from test_metrics import metrics
from waiting import HANG_SECONDS, wait_for

from ddpm.canary import kept
from ddpm.generation.recipe import load_model
from ddpm.promotion.registry import version
from ddpm.serving.answering import Answering
from ddpm.serving.shadow import Shadow


@pytest.fixture
def files(tmp_path: Path, tiny_model: Callable[..., str]) -> Files:
    """Two versions, the first is the champion, with what was kept of both."""
    files = two_versions(tmp_path, tiny_model)
    files.move(action="promote", version="1", by="Ann", reason="first")
    return files


@pytest.fixture
def shadow(files: Files) -> Shadow:
    return Shadow(
        files.load(version(files, "2")),
        "2",
        images=100,
        kept_of=lambda number: kept.read(files.kept[number]),
        keep=lambda figures: files.keep_shadow("2", figures),
    )


@pytest.fixture
def site(files: Files, shadow: Shadow) -> Iterator[Site]:
    """The champion is served, with the shadow."""
    with running(served_from(files, shadow=shadow)) as site:
        yield site


def both(site: Site) -> tuple[Any, Any, int]:
    figures = site.get("/model").json["shadow"]
    return figures["served"], figures["shadow"], figures["dropped"]


def drawn_again(site: Site, requests: int) -> None:
    wait_for(lambda: both(site)[1]["requests"] + both(site)[1]["errors"] == requests)


def test_both_versions_draw_the_same_requests_and_their_figures_stand_side_by_side(
    site: Site, shadow: Shadow, files: Files
) -> None:
    for call in range(8):
        assert site.prediction(number=16)["model"]["version"] == "1"
        drawn_again(site, call + 1)
    wait_for(lambda: both(site)[1]["distance"] is not None)
    served, own, dropped = both(site)
    assert (served["version"], own["version"], dropped) == ("1", "2", 0)
    for figures in (served, own):
        assert (figures["requests"], figures["errors"]) == (8, 0)
        assert figures["seconds_of_one_image"] > 0
        assert 0 < figures["distance"] <= 1.5 * figures["distance_by_chance"], "each draws as it was measured"
    read = metrics(site)
    assert read["ddpm_shadow_distance", "shadow", "2"] == own["distance"]
    assert read["ddpm_shadow_requests", "served", "1"] == 8
    shadow.keep()
    assert version(files, "2").shadow() == {"served": served, "shadow": own, "dropped": 0}


def test_the_shadow_draws_the_seed_label_and_number_of_the_answer(site: Site, shadow: Shadow) -> None:
    drawn: list[tuple[int, list[int]]] = []
    shadow._model.network.register_forward_pre_hook(
        lambda _, inputs: drawn.append((len(inputs[0]), inputs[2].tolist()))
    )
    site.prediction(number=3, label=2)
    drawn_again(site, 1)
    assert set(map(str, drawn)) == {str((3, [2, 2, 2]))}


def test_a_shadow_draws_in_bf16_too(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    tiny_model(tmp_path / "model.safetensors", recipe={"sampler": "ddim", "steps": 2, "precision": "bf16"})
    answering = Answering(load_model(tmp_path / "model.safetensors"), None)
    shadow = Shadow(load_model(tmp_path / "model.safetensors"), "2", images=100, kept_of=lambda number: None)
    looked: list[int] = []

    def is_busy() -> bool:
        looked.append(1)
        return False

    shadow.beside(is_busy)
    answering.listeners.append(lambda drawn: shadow.drew("1", drawn))
    answering.answers([{"number": 2}])
    wait_for(lambda: shadow._both is not None and shadow._both[1].requests + shadow._both[1].errors == 1)
    figures = shadow.to_json()["shadow"]
    assert (figures["requests"], figures["errors"]) == (1, 0)
    assert len(looked) >= 2 + 2, "it gives way before each of the two evaluations, too"


def test_the_figures_are_of_requests_that_both_drew_and_the_times_of_those_that_were_drawn_alone(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors")
    shadow = Shadow(load_model(tmp_path / "model.safetensors"), "2", images=100, kept_of=lambda number: None)

    def fail(_: Any, inputs: Any) -> None:
        if (inputs[2] == 3).all():
            raise RuntimeError("no such kernel")

    def figures(after: int) -> tuple[Any, Any]:
        wait_for(lambda: shadow._both is not None and shadow._both[1].requests + shadow._both[1].errors == after)
        return shadow.to_json()["served"], shadow.to_json()["shadow"]

    shadow._model.network.register_forward_pre_hook(fail)
    answering = Answering(model, None)
    answering.listeners.append(lambda drawn: shadow.drew("1", dataclasses.replace(drawn, seconds=None)))
    answering.answers([{"number": 8, "label": 2}])
    served, own = figures(1)
    assert (served["seconds_of_one_image"], own["seconds_of_one_image"]) == (None, None)
    answering.answers([{"number": 8, "label": 3}])
    served, own = figures(2)
    assert (served["requests"], own["requests"], own["errors"]) == (1, 1, 1)


def test_pictures_of_people_their_seeds_and_settings_are_not_drawn_again(site: Site) -> None:
    from test_answering import picture

    site.prediction(task="edit", image=picture(), steps=2)
    site.prediction(steps=3)
    site.prediction(number=2, seed=1)
    site.prediction(number=5)
    drawn_again(site, 1)
    assert both(site)[0]["requests"] == 1


def test_a_shadow_that_fails_is_counted_and_changes_no_answer(site: Site, shadow: Shadow) -> None:
    before = site.prediction(number=2, seed=7)

    def fail(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    shadow._model.network.register_forward_pre_hook(fail)
    for call in range(3):
        assert len(site.prediction(number=2)["images"]) == 2
        drawn_again(site, call + 1)
    assert site.prediction(number=2, seed=7) == before
    served, own, _ = both(site)
    assert (served["requests"], served["errors"], own["requests"], own["errors"]) == (0, 0, 0, 3)


def test_a_shadow_that_never_ends_delays_nobody_and_drops_what_it_has_no_time_for(site: Site, shadow: Shadow) -> None:
    leave = threading.Event()
    shadow._model.network.register_forward_pre_hook(lambda *_: leave.wait(HANG_SECONDS) and None)
    for _ in range(25):
        site.prediction(steps=None)
    assert both(site)[2] >= 25 - 17, "one is drawn, sixteen wait"
    leave.set()


def test_the_shadow_draws_only_while_no_call_runs(site: Site, shadow: Shadow) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        inside.set()
        leave.wait(HANG_SECONDS)

    evaluations: list[bool] = []
    shadow._model.network.register_forward_hook(lambda *_: evaluations.append(leave.is_set()))
    hook = site.models.current.answering.model.network.register_forward_pre_hook(hold)
    running_call = threading.Thread(target=lambda: site.prediction(steps=1))
    running_call.start()
    inside.wait(HANG_SECONDS)
    hook.remove()
    site.prediction()
    assert evaluations == [], "another call still runs"
    leave.set()
    running_call.join()
    drawn_again(site, 1)
    assert all(evaluations)


def test_figures_begin_anew_with_another_champion_and_a_shadow_that_is_promoted_has_no_shadow(
    site: Site, shadow: Shadow, files: Files
) -> None:
    site.prediction()
    drawn_again(site, 1)
    files.move(action="promote", version="2", by="Ann", reason="better")
    site.models.look()
    assert site.prediction()["model"]["version"] == "2"
    assert both(site)[1]["requests"] == 1
    files.move(action="rollback", version="1", by="Ann", reason="worse")
    site.models.look()
    site.prediction()
    drawn_again(site, 2)
