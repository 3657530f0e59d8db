"""The model card is one that Hugging Face reads, whatever the names in it are."""

from typing import Any

import pytest
from hostile import HOSTILE
from markdown_it import MarkdownIt

from ddpm.promotion.gate import MEMORIZED
from ddpm.reporting import model_card


def record(**changes: Any) -> dict[str, Any]:
    protocol = {"n": 100, "seed": 0, "drawing": {"sampler": "ddim", "steps": 10}}
    metrics = {"fid": 2.5, "kid": None} | dict.fromkeys(MEMORIZED, 0.01)
    return metrics | {"floor": {"fid": 1.0}, "protocol": protocol | changes}


def origin(name: str, *classes: str) -> dict[str, Any]:
    facts = {"name": name, "content_hash": "ab" * 32, "train": 80, "test": 20, "channels": 1, "size": 8}
    return {"data": name, "data_hash": "ab" * 32, "facts": facts | {"classes": list(classes)}, "size": 8}


def test_hugging_face_s_own_parser_reads_header_and_metrics() -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    card = huggingface_hub.ModelCard(model_card.card("cats version 3", [record(), record(n=200)], origin("no")))
    assert card.data.library_name == "ddpm-factory"
    result = card.data.eval_results[0]
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("no", "fid", 2.5)
    assert card.data.model_name == "cats version 3"
    for heading in ("Intended use", "How to use it", "Data", "Metrics", "Limits"):
        assert f"## {heading}\n" in card.text
    assert "100 generated images" in card.text
    assert "200 generated images" in card.text


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_break_neither_header_nor_page(text: str) -> None:
    from ruamel.yaml import YAML

    page = model_card.card(text, [record()], origin(text, text), picture="samples.png")
    _, header, body = page.split("---\n", 2)
    values = YAML(typ="safe").load(header)
    assert values["model-index"][0]["name"] == text
    shown = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    for tag in ("<script", "<a ", "<b>", "<!--", "<hr", "<blockquote", "<ol"):
        assert tag not in shown
    assert shown.count("<img") == 1
    assert shown.count("<h1") == 1


def test_an_exported_model_without_a_version_has_a_card_without_metrics() -> None:
    card = model_card.for_diffusers(
        "model.safetensors", None, lineage={"data": "cats"}, shape={"size": 8, "channels": 3}
    )
    assert "library_name: diffusers" in card
    assert "No metrics of this model are known." in card
    assert "DDPMPipeline.from_pretrained" in card
