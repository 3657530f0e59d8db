"""The page in a real browser: the same pictures as the command line, by keyboard, on a phone, and what goes wrong."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import Visit, visited
from PIL import Image
from site_of_models import BOUNDS, RECORD, Files, Site, running, served_from

from ddpm.cli import main
from ddpm.serving.served_models import ServedModels

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow
SIZES = {"desk": (1400, 900), "phone": (400, 800)}
TASKS = ("generate", "inpaint", "edit", "interpolate", "restore", "about")
LARGE_SEED = 2**62 + 1
"""A number that JavaScript would round."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> Files:
    """Version 2 is the champion."""
    files = Files(tmp_path_factory.mktemp("models"))
    for seed, number in enumerate("12"):
        tiny_model(files.folder / f"{number}.safetensors", seed=seed)
        files.register(RECORD)
    files.move(action="promote", version="2", by="Ann", reason="sharper")
    return files


@pytest.fixture(scope="module")
def site(files: Files) -> Iterator[Site]:
    models = served_from(files)
    models.look()
    with running(models) as site:
        yield site


@pytest.fixture
def visit(browser: "Browser", site: Site) -> Iterator[Visit]:
    """The page with its first pictures; at its end nothing may be wrong with it."""
    with visited(browser, site.url) as visit:
        visit.page.wait_for_selector("#generate .result img")
        yield visit
    assert not visit.complaints
    assert not visit.outside


def pictures(place: "Locator") -> list[list[int]]:
    """The pixels of the pictures that are shown there as results."""
    sources = place.locator("button.picture img").evaluate_all("all => all.map((image) => image.src)")
    return [pixels(source.partition(",")[2]) for source in sources]


def pixels(text: str) -> list[int]:
    return list(Image.open(io.BytesIO(base64.b64decode(text))).convert("L").getdata())


def expect_text(place: "Locator", text: str) -> None:
    """Wait until the text is there; a script in the page would need `eval`, which the page forbids."""
    from playwright.sync_api import expect

    expect(place).to_contain_text(text, timeout=60_000)


def run(page: "Page", task: str) -> None:
    """Press the task's button and wait for its pictures."""
    page.locator(f"#{task} .results").evaluate("place => place.replaceChildren()")
    page.locator(f"#{task} .go").click()
    page.wait_for_selector(f"#{task} .result, #{task} .error:not(:empty)")


def test_the_pictures_are_those_of_the_command_line_to_the_bit(
    visit: Visit, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit.page
    page.get_by_label("class 3", exact=True).check(force=True)
    page.get_by_label("Pictures", exact=True).first.fill("5")
    page.get_by_label("Seed").first.fill(str(LARGE_SEED))
    page.get_by_label("Sampler").select_option("ddim")
    page.get_by_label("Eta").fill("0.3")
    page.get_by_label("Guidance").first.fill("2.5")
    run(page, "generate")
    assert str(LARGE_SEED) in page.locator("#generate .result .hint").inner_text()
    command = page.locator("#generate details pre").text_content()
    assert command == (
        f"ddpm sample --name ddpm --version 2 --number 5 --seed {LARGE_SEED} --label 'class 3' --sampler ddim "
        "--steps 10 --guidance 2.5 --eta 0.3 --out pictures.png"
    )
    monkeypatch.chdir(tmp_path)
    options = f"--number 5 --seed {LARGE_SEED} --sampler ddim --steps 10 --guidance 2.5 --eta 0.3 --out drawn".split()
    model = files.folder / "2.safetensors"
    assert main(["sample", "--model", str(model), "--label", "class 3", *options]) == 0
    drawn = [list(Image.open(file).getdata()) for file in sorted((tmp_path / "drawn").glob("*.png"))]
    assert pictures(page.locator("#generate")) == drawn
    assert len(drawn) == 5


def test_two_versions_stand_side_by_side_with_the_same_seed_and_their_noise_becomes_pictures(
    visit: Visit, site: Site
) -> None:
    page = visit.page
    page.get_by_label("Side by side with").select_option("1")
    page.get_by_label("Show how noise becomes a picture").check()
    page.get_by_label("Pictures", exact=True).first.fill("2")
    page.get_by_label("Seed").first.fill("7")
    run(page, "generate")
    expect_text(page.locator(".play"), "Play")  # at its end
    titles = page.locator("#generate .result h3").all_inner_texts()
    assert titles == ["ddpm version 2", "ddpm version 1"]
    shown = page.locator("#generate canvas").evaluate_all(
        "all => all.map((c) => [...c.getContext('2d').getImageData(0, 0, 8, 8).data].filter((_, k) => k % 4 === 0))"
    )
    expected = [
        pixels(image) for version in ("2", "1") for image in site.prediction(version, number=2, seed=7)["images"]
    ]
    assert shown == expected
    page.get_by_label("Step of the reverse process").fill("0")
    first = page.locator("#generate canvas").first.evaluate("c => [...c.getContext('2d').getImageData(0,0,8,8).data]")
    assert first[::4] != shown[0]


def test_every_task_is_done_with_the_keyboard_alone(visit: Visit) -> None:
    page = visit.page

    def press_until(selector: str) -> None:
        for _ in range(60):
            if page.evaluate("selector => document.activeElement?.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        pytest.fail(f"{selector} cannot be reached with Tab")

    press_until('a[href="#inpaint"]')
    page.keyboard.press("Enter")
    press_until("#inpaint .slot button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#inpaint .slot img:not([hidden])")
    press_until('[data-mask="none"]')
    page.keyboard.press("Enter")
    page.locator("#brush").focus()
    page.keyboard.press("Space")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    expect_text(page.locator("#masked"), "2 of 64")
    press_until("#inpaint .go")
    page.keyboard.press("Enter")
    page.wait_for_selector("#inpaint .result")
    known = pixels(str(page.locator("#inpaint figure.input img").get_attribute("src")).partition(",")[2])
    for made in pictures(page.locator("#inpaint")):
        assert [k for k in range(64) if made[k] != known[k]] in ([], [35], [36], [35, 36])
    press_until("#inpaint button.picture")
    page.keyboard.press("Enter")
    assert page.locator("#picture").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#picture").is_visible()


def test_everything_that_is_used_has_a_name_for_a_screen_reader(visit: Visit) -> None:
    for task in TASKS:
        visit.page.goto(f"{visit.page.url.partition('#')[0]}#{task}")
        nameless = visit.page.evaluate(
            """() => [...document.querySelectorAll("input, select, button, a, canvas, img")]
            .filter((e) => e.checkVisibility() && !e.labels?.length && !e.textContent.trim()
              && !e.getAttribute("aria-label") && !e.alt && !e.title)
            .map((e) => e.outerHTML)"""
        )
        assert nameless == [], task


@pytest.mark.parametrize("size", SIZES)
def test_every_task_fits_the_window_and_pixels_are_large_and_sharp(browser: "Browser", site: Site, size: str) -> None:
    width, height = SIZES[size]
    with visited(browser, site.url, width=width, height=height) as visit:
        page = visit.page
        page.wait_for_selector("#generate .result img")
        for task in TASKS:
            page.goto(f"{site.url}#{task}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, task
            assert page.locator(f"#{task} h2").is_visible()
        page.goto(f"{site.url}#generate")
        image = page.locator("#generate .picture img").first
        box = image.bounding_box()
        assert box is not None
        assert box["width"] == box["height"] >= 56
        assert box["width"] % 8 == 0
        assert image.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert not visit.complaints


def test_what_is_wrong_stands_beside_its_field_and_is_mended_there(browser: "Browser", site: Site) -> None:
    with visited(browser, site.url) as visit:
        page = visit.page
        page.wait_for_selector("#generate .result img")
        page.get_by_label("Seed").first.fill("-1")
        run(page, "generate")
        message = page.locator("#generate .field .error")
        assert message.inner_text() == "seed is -1, expected a whole number of 0 or more."
        assert page.evaluate("document.activeElement.name") == "seed"
        assert page.get_by_label("Seed").first.get_attribute("aria-describedby") == message.get_attribute("id")
        page.get_by_label("Seed").first.fill("1")
        run(page, "generate")
        assert page.locator("#generate .error:not(:empty)").count() == 0
        page.get_by_role("link", name="Edit").click()
        run(page, "edit")
        assert "image is missing" in page.locator("#edit .slot .error").inner_text()
        page.locator("#edit input[type=file]").set_input_files(
            {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
        )
        expect_text(page.locator("#edit .slot .error"), "notes.txt cannot be read")


def test_limits_and_a_server_that_has_gone_are_said_in_words(browser: "Browser", files: Files) -> None:
    from dataclasses import replace

    bounds = replace(BOUNDS, max_work=20_000)
    with running(served_from(files, bounds=bounds), bounds=bounds) as site, visited(browser, site.url) as visit:
        page = visit.page
        page.wait_for_selector("#generate .result img")
        page.get_by_label("Pictures", exact=True).first.fill("64")
        run(page, "generate")
        said = page.locator("#generate p.error").inner_text()
        assert said.startswith("Too much work: the call needs 40960 network evaluations times pixels")
        assert "request fewer images" in said
        page.route("**/invocations", lambda route: route.abort())
        run(page, "generate")
        assert page.locator("#generate p.error").inner_text().startswith("The server did not answer")


def test_a_picture_of_any_size_is_restored_and_one_of_the_models_size_is_not_changed(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("link", name="Restore").click()
    page.get_by_label("What is wrong with it").select_option("denoise")

    def sent(picture: Image.Image) -> Any:
        file = io.BytesIO()
        picture.save(file, "PNG")
        page.locator("#restore input[type=file]").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": file.getvalue()}
        )
        expect_text(page.locator("#restore .slot .hint"), f"{picture.width}×{picture.height}")
        with page.expect_request("**/invocations") as request:
            run(page, "restore")
        assert page.locator("#restore .result").count() == 1
        return request.value.post_data_json["inputs"][0]

    own = Image.new("RGB", (8, 8))
    own.putdata([(3 * k, 255 - k, 7) for k in range(64)])
    file = io.BytesIO()
    own.save(file, "PNG")
    assert sent(own)["image"] == base64.b64encode(file.getvalue()).decode()
    large = Image.open(io.BytesIO(base64.b64decode(sent(Image.new("L", (90, 60), 200))["image"])))
    assert large.size == (8, 8)
    assert set(large.convert("L").getdata()) == {200}
    page.get_by_label("What is wrong with it").select_option("super-resolution")
    small = Image.open(io.BytesIO(base64.b64decode(sent(own)["image"])))
    assert small.size == (4, 4)


def test_a_download_has_the_settings_in_its_name(visit: Visit) -> None:
    page = visit.page
    page.get_by_label("Seed").first.fill("3")
    run(page, "generate")
    page.locator("#generate .picture").nth(1).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "ddpm_version-2_class-1_2_seed-3_dpmpp_2m-steps-10.png"
    saved = Image.open(download.value.path())
    assert list(saved.getdata()) == pictures(page.locator("#generate"))[1]
    page.get_by_role("button", name="Interpolate to it").click()
    assert page.locator("#interpolate .slot[data-slot=other] img").is_visible()


def test_hostile_class_names_are_text(browser: "Browser", tmp_path: Path, tiny_model: Callable[..., str]) -> None:
    from ddpm.generation.recipe import load_model

    name = "<img src=x onerror=document.title=1>'; rm -rf ~ `x`|\n"
    tiny_model(tmp_path / "m.safetensors", classes=[name, "b"])
    with running(ServedModels(load_model(tmp_path / "m.safetensors"), "m.safetensors", BOUNDS)) as site:
        with visited(browser, site.url) as visit:
            visit.page.wait_for_selector("#generate .result img")
            assert visit.page.locator("#generate figcaption").first.text_content() == name
            assert visit.page.title() == "m.safetensors"
        assert not visit.complaints
