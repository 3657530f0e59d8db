"""The recipes of the project: complete statements, with headers that people and the program can read."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from ddpm import cli, overlay, recipe_file, unread_settings, yaml_file
from ddpm.errors import UserError
from ddpm.params import load as load_params
from ddpm.recipe_advice import advice

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
METHODS = ROOT / "recipes/methods"
HEADER = (
    "recipe: {purpose: Tests, channels: 3, sizes: [32, 64], images: [null, 1000], minutes: null, fid: null, "
    "floor: null, seeds: null, machine: null, command: null}\n"
)


def leaves(values: dict[str, Any], *above: str) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        found |= leaves(value, *above, key) if isinstance(value, dict) else {(*above, key): value}
    return found


def header_of(path: Path) -> recipe_file.Header:
    header = recipe_file.read(path).header
    assert header is not None, f"{path.name} has no header"
    return header


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the real params.yaml and links to the real recipes."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    Path("recipes").mkdir()
    for path in RECIPES:
        Path("recipes", path.name).symlink_to(path)
    return tmp_path


def test_there_is_a_recipe_for_each_kind_of_data() -> None:
    assert {path.stem for path in RECIPES} == {"digits", "grey-32", "colour-32", "colour-64", "few"}


@pytest.mark.parametrize(("first", "then"), itertools.permutations(RECIPES, 2), ids=lambda path: path.stem)
def test_one_recipe_after_another_leaves_nothing_of_the_first(first: Path, then: Path) -> None:
    """So each recipe names every value in which any two recipes differ."""
    params = leaves(yaml_file.read(ROOT / "params.yaml"))
    one, other = leaves(recipe_file.read(first).values), leaves(recipe_file.read(then).values)
    left = {".".join(keys) for keys in one if (params | one | other)[keys] != (params | other)[keys]}
    assert left == set(), f"{then.name} does not name these values of {first.name}"


@pytest.mark.parametrize("method", ["vae", "gan"])
def test_the_recipe_of_diffusion_brings_params_yaml_back_after_one_of_another_method(
    project: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_bytes()
    assert cli.main(["configure", str(METHODS / f"{method}.yaml")]) == 0
    assert load_params().method == method
    assert load_params().train != load_params(ROOT / "params.yaml").train
    assert cli.main(["configure", str(METHODS / "diffusion.yaml")]) == 0
    assert Path("params.yaml").read_bytes() == before
    assert "warning" not in capsys.readouterr().out


def test_configure_lists_the_recipes_of_methods_and_no_stage_recommends_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipes/methods").symlink_to(METHODS)
    assert cli.main(["configure"]) == 0
    said = capsys.readouterr().out
    listed = [line.split()[0] for line in said.splitlines()]
    of_methods = sorted(f"recipes/methods/{path.name}" for path in METHODS.glob("*.yaml"))
    assert listed[-len(of_methods) :] == of_methods
    assert len(listed) == len(RECIPES) + len(of_methods)
    with pytest.raises(UserError, match=r"recipes/methods/vae\.yaml$"):
        recipe_file.find(Path("wae"))
    assert recipe_file.find(Path("methods/vae")) == Path("recipes/methods/vae.yaml")
    assert "methods" not in str(advice(Path("params.yaml"), channels=1, size=8, images=1797))


@pytest.mark.parametrize("name", ["restore", "cascade-base", "cascade"])
def test_a_recipe_of_pictures_is_valid_and_taken_back_by_that_of_diffusion(project: Path, name: str) -> None:
    before = load_params()
    assert cli.main(["configure", str(METHODS / f"{name}.yaml")]) == 0
    assert load_params().promote.name != before.promote.name
    assert cli.main(["configure", str(METHODS / "diffusion.yaml")]) == 0
    assert load_params() == before


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_where_the_images_are_belongs_to_the_user(recipe: Path) -> None:
    assert set(recipe_file.read(recipe).values.get("data", {})) <= {"size", "channels", "fit", "labels"}


def test_the_values_of_the_project_as_it_comes_are_a_recipe() -> None:
    assert overlay.load(ROOT / "params.yaml", ROOT / "recipes" / "digits.yaml") == load_params(ROOT / "params.yaml")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_fits_the_images_that_it_makes_and_its_network_has_their_resolutions(recipe: Path) -> None:
    header, params = header_of(recipe), overlay.load(ROOT / "params.yaml", recipe)
    least, most = header.sizes
    sizes: list[int | None] = [params.data.size] if params.data.size is not None else [least, most]
    if params.data.size is None and least is not None and most is not None:
        sizes += range(least, most, 8)  # `prepare` makes images of these sizes, if it makes them smaller or larger
    for size in sizes:
        assert size is not None
        assert least is None or most is None or least <= size <= most
        assert unread_settings.attention(params, size) == []


def test_no_images_have_two_recipes_that_fit() -> None:
    headers = [header_of(path) for path in RECIPES]
    for channels, size, images in itertools.product((1, 3), range(4, 257), (1, 999, 1000, 1001, 10**6)):
        fitting = [
            header for header in headers if not any(header.distance(channels=channels, size=size, images=images))
        ]
        assert len(fitting) <= 1, (channels, size, images)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recipe: {purpose: Tests}", "recipe.channels is missing"),
        (HEADER.replace("command: null", "command: null, comand: null"), "recipe.comand is not a known key"),
        (HEADER.replace("[32, 64]", "[64, 32]"), "sizes is [64, 32], expected the smaller number first"),
        (HEADER.replace("fid: null", "fid: [1.5]"), "fid and seeds have 1 and 0 values, expected one per seed"),
        ("recipe: colour", "recipe."),
    ],
)
def test_a_header_that_is_wrong_is_one_sentence_and_changes_nothing(
    project: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_bytes()
    Path("mine.yaml").write_text(f"{text}\ntrain: {{lr: 0.5}}\n")
    assert cli.main(["configure", "mine.yaml"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: mine.yaml: recipe.")
    assert says in said
    assert said.count("\n") == 1
    assert Path("params.yaml").read_bytes() == before


def test_configure_says_what_a_recipe_is_for_and_what_was_measured(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = HEADER.replace("minutes: null, fid: null, floor: null, seeds: null", "minutes: 20, fid: [3, 2.5, 3.5]")
    measured = measured.replace("machine: null", "floor: 1.25, seeds: [0, 1, 2], machine: two cores")
    Path("recipes/mine.yaml").write_text(measured.replace("command: null", "command: dvc repro") + "train: {lr: 0.5}\n")
    assert cli.main(["configure", "recipes/mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert "recipes/mine.yaml: Tests\n" in said
    assert "colour, 32 to 64 pixels, at most 1,000 images\n" in said
    assert "20 minutes of training, FID 3 (2.5 to 3.5 with 3 seeds), floor 1.25, on two cores\n" in said
    assert "dvc repro\n" in said
    assert "  train.lr: 0.002 -> 0.5\n" in said
    assert "recipe:" not in Path("params.yaml").read_text()

    before = Path("params.yaml").read_bytes()
    assert cli.main(["configure", "mine"]) == 0
    assert Path("params.yaml").read_bytes() == before
    capsys.readouterr()
    assert cli.main(["configure", "recipes/none.yaml"]) == 1
    assert "recipes/none.yaml was not found; name one of recipes/" in capsys.readouterr().err

    assert cli.main(["configure"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == sorted(f"recipes/{path.name}" for path in Path("recipes").iterdir())
    assert "Tests (20 minutes" in next(line for line in listed if "mine" in line)
    Path("recipes/bare.yaml").write_text(HEADER)
    assert cli.main(["configure", "recipes/bare.yaml"]) == 0
    assert "not measured" in capsys.readouterr().out


def test_without_recipes_configure_asks_for_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert cli.main(["configure"]) == 1
        assert advice(Path("params.yaml"), channels=1, size=8, images=1797) is None
    assert "has no recipe" in capsys.readouterr().err


def test_the_recipe_that_fits_is_named_until_params_yaml_has_its_values(project: Path) -> None:
    params = Path("params.yaml")

    def named(channels: int, size: int, images: int) -> str:
        sentence = advice(params, channels=channels, size=size, images=images)
        assert sentence is not None
        return sentence

    assert named(3, 32, 6000) == (
        "recipes/colour-32.yaml fits these images (6,000 colour images of 32x32): "
        "`ddpm configure recipes/colour-32.yaml`"
    )
    assert named(3, 32, 500).startswith("recipes/few.yaml fits")
    assert named(1, 8, 1797).startswith("params.yaml has the values of recipes/digits.yaml")
    assert cli.main(["configure", "recipes/colour-32.yaml"]) == 0
    assert named(3, 32, 6000).startswith("params.yaml has the values of recipes/colour-32.yaml")
    assert named(1, 8, 1797).startswith("recipes/digits.yaml fits")
    none = named(1, 128, 6000)
    assert none.startswith("no recipe fits these images (6,000 grey images of 128x128); the nearest are recipes/")
    assert "grey-32.yaml (grey, 28 to 32 pixels, at least 1,001 images)" in none


def test_a_broken_file_among_the_recipes_does_not_stop_a_stage(project: Path) -> None:
    Path("recipes/broken.yaml").write_text("recipe: {purpose: Tests}")
    sentence = advice(Path("params.yaml"), channels=1, size=8, images=1797)
    assert sentence is not None
    assert sentence.startswith("no recipe is recommended, because recipes/broken.yaml: recipe.channels is missing")
