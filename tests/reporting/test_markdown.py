"""Markdown shows text that anyone may have written literally."""

import html
import re
from pathlib import Path

import pytest
from hostile import HOSTILE
from markdown_it import MarkdownIt

from ddpm.reporting import markdown
from ddpm.reporting.markdown import Table


def rendered(source: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", page)).split())


def visible(text: str) -> str:
    return " ".join(re.sub(r"\u202e", " ", text).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_it_was_written_in_a_paragraph_a_list_and_a_table(text: str) -> None:
    paragraph = rendered(markdown.escaped(text))
    assert text_of(paragraph) == visible(text)
    assert re.findall(r"<(\w+)", paragraph) == ["p"]
    listed = rendered(markdown.bullets([text]))
    assert text_of(listed) == visible(text)
    assert re.findall(r"<(\w+)", listed) == ["ul", "li"]
    cells = rendered(markdown.table(Table(("a", text), [(text, "end")])))
    assert re.findall(r"<(t[hd])>(.*?)</t[hd]>", cells) == [
        ("th", "a"),
        *((kind, html.escape(visible(text), quote=True).replace("&#x27;", "'")) for kind in ("th", "td")),
        ("td", "end"),
    ]
    coded = rendered(markdown.code(text))
    assert text_of(coded) == visible(text)
    assert set(re.findall(r"<(\w+)", coded)) <= {"p", "code"}


def test_ordinary_text_stays_readable_in_the_source() -> None:
    plain = "dpmpp_2m, 10 steps: fid 0.47 is 12.5% better (version 3, 2026-11-22)"
    assert markdown.escaped(plain) == plain
    assert markdown.table(Table(("a", "b"), [("x_1", "0.5 ± 0.1")])) == "| a | b |\n| --- | --- |\n| x_1 | 0.5 ± 0.1 |"
    assert markdown.table(Table(("a",), [])) == ""
    assert markdown.table(Table(("a",), [("1",)]), spaced=True) == "| a&emsp; |\n| --- |\n| 1&emsp; |"


def test_an_embedded_image_is_bounded_and_needs_no_file(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "a|`b`.png"
    Image.new("L", (3000, 10)).save(path)
    page = rendered(markdown.embedded(path))
    assert "data:image/png;base64," in page
    assert 'alt="a|`b`.png"' in page


def test_the_address_of_an_image_cannot_end_early() -> None:
    page = rendered(markdown.linked_image("x](y)", "get?name=a b)&version=1&path=<s>"))
    assert re.findall(r"<(\w+)", page) == ["p", "img"]
