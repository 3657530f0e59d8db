"""/ready and /metrics of a server, as an orchestrator and Prometheus read them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from site_of_models import RECORD, Files, Site, running, served_from


@pytest.fixture
def files(tmp_path: Path, tiny_model: Callable[..., str]) -> Files:
    """Two versions; the first is the champion."""
    files = Files(tmp_path)
    for seed, number in enumerate("12"):
        tiny_model(tmp_path / f"{number}.safetensors", seed=seed)
        files.register(RECORD)
    files.move(action="promote", version="1", by="Ann", reason="first")
    return files


def metrics(site: Site) -> dict[tuple[str, ...], float]:
    """Every value by its name and the values of its labels."""
    answer = site.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.content.decode())
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_a_server_is_ready_when_its_model_has_drawn_an_image(files: Files) -> None:
    models = served_from(files)
    with running(models) as site:
        assert site.get("/ready").status == 503
        assert site.get("/ping").status == 200
        models.warm_up()
        assert (site.get("/ready").status, site.get("/ready").json["model"]) == (200, "ddpm version 1")


def test_a_model_that_cannot_draw_is_never_ready_and_never_takes_over(files: Files) -> None:
    models = served_from(files)

    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    hook = models.current.answering.model.network.register_forward_pre_hook(broken)
    with running(models) as site:
        models.warm_up()
        assert site.get("/ready").status == 503
        assert models.notice == "ddpm version 1 cannot draw an image (see the server's log)"
        hook.remove()
        models.warm_up()
        assert site.get("/ready").status == 200
        load = files.load

        def loaded_broken(found: object) -> object:
            model = load(found)
            model.network.register_forward_pre_hook(broken)
            return model

        models._load = loaded_broken  # type: ignore[assignment]
        files.move(action="promote", version="2", by="Ann", reason="better")
        models.look()
        assert site.prediction(steps=1)["model"]["version"] == "1"
        assert (site.get("/ready").status, models.notice is not None) == (200, True)


def test_the_counters_have_every_call_by_status_and_what_is_served(files: Files) -> None:
    models = served_from(files)
    with running(models) as site:
        models.warm_up()
        for _ in range(3):
            site.prediction(steps=1)
        assert site.post({"inputs": [{"label": 99}]}).status == 400
        read = metrics(site)
        assert read["ddpm_calls_total", "400"] == 1
        assert read["ddpm_call_seconds_count",] == read["ddpm_calls_total", "200"] == 3
        assert (read["ddpm_ready",], read["ddpm_is_champion",], read["ddpm_running_work",]) == (1, 1, 0)
        assert read["process_resident_memory_bytes",] > 10_000_000
        files.move(action="promote", version="2", by="Ann", reason="better")
        models.look()
        [identity] = [name for name in metrics(site) if name[0] == "ddpm_served_info"]
        assert "2" in identity
