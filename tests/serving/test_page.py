"""The page over HTTP: only what the model can do, other people's texts escaped, and no answer for other websites."""

import base64
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from degraded import image_of_spec
from site_of_models import RECORD, Files, Site, running, served_from

from ddpm.errors import on_one_line
from ddpm.generation.recipe import load_model
from ddpm.serving import page
from ddpm.serving.calls import RefusedError
from ddpm.serving.own_site import require_own_site
from ddpm.serving.sample_request import complete, draw
from ddpm.serving.served_models import ServedModels

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>|`a`\n{{title}}<!-- if notice -->"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Iterator[Site]:
    """Version 2 is the champion, version 1 stands beside it."""
    folder = tmp_path_factory.mktemp("models")
    files = Files(folder)
    for seed, number in enumerate("12"):
        tiny_model(folder / f"{number}.safetensors", seed=seed)
        files.register(RECORD)
    files.move(action="promote", version="2", by="Ann", reason="sharper")
    models = served_from(files)
    models.look()
    with running(models, hosts=("models.example",)) as site:
        yield site


class Elements(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def names(self, form: str) -> set[str]:
        """The names of the fields of one task's form."""
        names: set[str] = set()
        inside = False
        for tag, attributes in self.found:
            if tag == "form":
                inside = attributes.get("data-task") == form
            if inside and attributes.get("name"):
                names.add(str(attributes["name"]))
        return names

    def options(self, name: str) -> list[str]:
        """The values of the options of the first selection with this name."""
        values: list[str] = []
        inside = False
        for tag, attributes in self.found:
            if tag == "select":
                inside = attributes.get("name") == name
                if not inside and values:
                    break
            if tag == "option" and inside:
                values.append(str(attributes["value"]))
        return values


def page_of(path: Path, tiny_model: Callable[..., str], **changes: Any) -> Elements:
    tiny_model(path / "m.safetensors", **changes)
    return Elements(page.page(ServedModels(load_model(path / "m.safetensors"), "m.safetensors", None)).content)  # type: ignore[arg-type]


def test_the_page_of_a_champion_names_version_metric_and_decision_and_offers_the_other_version(site: Site) -> None:
    answer = site.get()
    assert answer.status == 200
    elements = Elements(answer.content)
    for words in ("ddpm version 2", "champion", "FID 0.5 (lower is better, real images 0.25)", "sharper", "Ann"):
        assert words in elements.text
    assert elements.options("version") == ["", "1"]
    assert elements.names("sample") >= {"label", "number", "seed", "sampler", "steps", "guidance", "frames", "version"}


@pytest.mark.parametrize(
    ("changes", "has", "lacks"),
    [
        ({"classes": []}, {"sampler"}, {"label", "guidance", "version"}),
        ({"unconditional": False}, {"label"}, {"guidance"}),
        ({"channels": 3}, {"label", "guidance"}, {"version"}),
    ],
    ids=["no classes", "no guidance", "colour"],
)
def test_only_fields_that_the_model_can_use_are_there(
    tmp_path: Path, tiny_model: Callable[..., str], changes: dict[str, Any], has: set[str], lacks: set[str]
) -> None:
    elements = page_of(tmp_path, tiny_model, **changes)
    assert has <= elements.names("sample")
    assert not lacks & elements.names("sample")
    assert ("colourise" in elements.options("task")) == (changes.get("channels") == 3)
    if changes.get("unconditional") is False:  # such a model needs a label for every task
        assert "" not in elements.options("label")


def test_the_page_of_a_model_of_pictures_offers_only_what_it_was_trained_for(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    elements = page_of(tmp_path, tiny_model, **image_of_spec())
    assert not elements.names("sample"), "it draws nothing without a picture"
    assert not elements.names("edit") | elements.names("interpolate")
    assert elements.options("task") == ["super-resolution", "denoise"]
    assert elements.options("factor") == ["2"]
    assert "noise" in elements.names("restore")
    assert elements.names("inpaint")
    assert not elements.names("inpaint") & {"label", "jump", "resamplings"}
    assert "super-resolution by 2, inpaint and denoise of noise from 0 to 40" in elements.text
    only = page_of(tmp_path, tiny_model, **image_of_spec(degradations=["inpaint"]))
    assert not only.names("restore")


def test_every_offered_sampler_is_one_that_the_model_takes(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    elements = page_of(tmp_path, tiny_model, schedule={"zero_terminal_snr": True}, recipe=None)
    assert "ddim" in elements.options("sampler")
    assert "langevin" not in elements.options("sampler")


def test_many_classes_are_a_list_and_large_pictures_are_not_drawn_unasked(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    classes = [f"kind {k}" for k in range(40)]
    elements = page_of(tmp_path, tiny_model, classes=classes, size=64, network={"attention": []})
    assert len(elements.options("label")) == 41
    body = dict(elements.found)["body"]
    assert (body["data-size"], body["data-auto"]) == ("64", "")


def test_texts_of_people_never_become_elements(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    tiny_model(tmp_path / "1.safetensors", classes=[HOSTILE, "a"])
    files = Files(tmp_path)
    files.register(RECORD, origin={"git_commit": HOSTILE})
    files.move(action="promote", version="1", by=HOSTILE, reason=HOSTILE)
    models = served_from(files)
    models.look()
    models.notice = HOSTILE
    elements = Elements(page.page(models).content)
    assert {str(attributes.get("src")) for tag, attributes in elements.found if tag == "script"} == {
        "page.js",
        "inputs.js",
    }
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert elements.text.count(on_one_line(HOSTILE)) >= 5


def test_texts_of_people_do_not_reverse_the_reading_direction(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    elements = page_of(tmp_path, tiny_model, classes=["\u202egnp.exe", "a"])
    assert "\\u202egnp.exe" in elements.text
    assert "\u202e" not in elements.text


def test_the_page_allows_its_own_files_only_and_refers_to_no_other(site: Site) -> None:
    answer = site.get()
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for name in ("", *page.FILES):
        found = site.get(f"/{name}")
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in found.headers
        assert not re.findall(rb"(?:https?:)?//[\w-]+\.", found.content)
    assert b"<style" not in answer.content
    assert not re.findall(rb"<[^>]* style=", answer.content)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Host": "models.example:8080", "Origin": "https://models.example:8080"}, 200),
        ({"Host": "[::1]:5001"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Host": "evil.example:{port}", "Origin": "http://evil.example:{port}"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[::1"}, 403),
    ],
    ids=str,
)
def test_programs_and_the_own_page_are_answered_and_pages_of_other_websites_are_not(
    site: Site, headers: dict[str, str], status: int
) -> None:
    filled = {name: value.replace("{port}", str(site.port)) for name, value in headers.items()}
    answer = site.post({"inputs": [{"steps": 1}]}, **filled)
    assert answer.status == status
    if status == 403:
        assert answer.json["error_code"] == "FORBIDDEN"


def test_a_request_without_a_host_is_a_program_s_unless_it_has_an_origin() -> None:
    require_own_site({})
    for headers in ({b"origin": b"null"}, {b"origin": b"null", b"host": b""}):
        with pytest.raises(RefusedError, match="a page of another website"):
            require_own_site(headers)


def test_a_name_that_points_here_reads_nothing(site: Site) -> None:
    for path in ("/", "/model", "/page.js", "/ping"):
        assert site.get(path, Host="evil.example").status == 403
    assert "--allowed-host" in site.get("/", Host="evil.example").json["message"]


def test_an_answer_names_its_model_and_settings_and_gives_the_same_pictures_again(site: Site) -> None:
    first = site.prediction(number=3, label="class 1", sampler="ddim", eta=0.5, guidance=2.0, steps=4)
    model = site.models.current.answering.model
    assert first["model"] == {"name": "ddpm", "version": "2", "sha256": model.sha256}
    assert first["recipe"]["time_grid"] == "karras"
    settings = ("number", "label", "seed", "sampler", "steps", "eta", "guidance")
    request = {name: first[name] for name in settings}
    assert site.prediction(**request)["images"] == first["images"]
    assert site.prediction(version=first["model"]["version"], **request)["images"] == first["images"]
    drawn = draw(model, complete(request, model))
    pixels = [list(_picture(text).getdata()) for text in first["images"]]
    assert pixels == drawn.flatten(1).tolist()


def _picture(text: str) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(("sampler", "steps", "frames"), [("dpmpp_2m", 10, 50), ("ddpm", 23, 5), ("heun", 9, 3)])
def test_the_last_state_of_the_reverse_process_is_the_picture(
    site: Site, sampler: str, steps: int, frames: int
) -> None:
    fields = {"number": 2, "seed": 3, "sampler": sampler, "steps": steps}
    answer = site.prediction(**fields, frames=frames)
    assert answer["images"] == site.prediction(**fields)["images"]
    for image, strip in zip(answer["images"], answer["frames"], strict=True):
        states = _picture(strip)
        assert 1 < states.height / 8 <= frames
        assert list(states.crop((0, states.height - 8, 8, states.height)).getdata()) == list(_picture(image).getdata())


def test_frames_beyond_their_memory_are_refused(tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    tiny_model(tmp_path / "m.safetensors", size=256, channels=3, network={"attention": []})
    model = load_model(tmp_path / "m.safetensors")
    assert complete({"number": 1, "frames": 50}, model).frames == 50
    with pytest.raises(Exception, match="frames is 50, expected at most 10 for 16 images"):
        complete({"number": 16, "frames": 50}, model)


def test_a_picture_has_no_metadata_whatever_came_in(site: Site) -> None:
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    private, file = PngInfo(), io.BytesIO()
    private.add_text("Author", "/home/ann")
    Image.new("L", (8, 8), 90).save(file, "PNG", pnginfo=private, exif=Image.Exif())
    answer = site.prediction(task="edit", image=base64.b64encode(file.getvalue()).decode(), steps=2)
    for text in answer["images"]:
        content, chunks, at = base64.b64decode(text), set(), 8
        while at < len(content):
            length = int.from_bytes(content[at : at + 4], "big")
            chunks.add(content[at + 4 : at + 8])
            at += 12 + length
        assert chunks == {b"IHDR", b"IDAT", b"IEND"}
