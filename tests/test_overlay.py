"""`ddpm configure`: a recipe's values, and nothing else, go into params.yaml; a bad recipe changes nothing."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from waiting import HANG_SECONDS

from ddpm import cli, overlay, recipe_file
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
BEFORE = (ROOT / "params.yaml").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the real params.yaml."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes(BEFORE)
    return tmp_path


def configure(text: str) -> int:
    Path("recipe.yaml").write_text(text)
    return cli.main(["configure", "recipe.yaml"])


def changed_lines() -> list[str]:
    """The new lines of params.yaml; every one replaces one line."""
    before, after = BEFORE.decode().splitlines(), Path("params.yaml").read_text().splitlines()
    assert len(before) == len(after)
    return [new for old, new in zip(before, after, strict=True) if old != new]


def leaves(values: dict[str, Any], *above: str) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        found |= leaves(value, *above, key) if isinstance(value, dict) else {(*above, key): value}
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_project_changes_just_the_values_that_it_names(
    folder: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["configure", str(recipe)]) == 0
    before, wanted = leaves(YAML(typ="safe").load(BEFORE)), leaves(recipe_file.read(recipe).values)
    assert leaves(YAML(typ="safe").load(Path("params.yaml"))) == before | wanted
    named = {keys for keys in wanted if wanted[keys] != before[keys]}
    said = capsys.readouterr().out
    assert all(f"  {'.'.join(keys)}: " in said for keys in named)
    assert "warning" not in said
    changed = changed_lines()
    assert {line.split(":")[0].strip() for line in changed} == {keys[-1] for keys in named}
    comments = [line.partition("#")[2] for line in BEFORE.decode().splitlines()]
    assert all(line.partition("#")[2] in comments for line in changed)
    assert overlay.load(ROOT / "params.yaml", recipe) == load_params()

    first = Path("params.yaml").read_bytes()
    assert cli.main(["configure", str(recipe)]) == 0
    assert "already has every value" in capsys.readouterr().out
    assert Path("params.yaml").read_bytes() == first


def test_a_comment_keeps_its_column_and_the_old_value_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert configure("network: {multipliers: [1, 2, 2, 4], attention: []}\ndata: {size: 32}\ntrain: {lr: 1e-05}\n") == 0
    assert changed_lines() == [
        "  size: 32                  # height and width in pixels; null: that of the images, or the largest below it",
        "  multipliers: [1, 2, 2, 4] # channels per resolution, as multiples of width",
        "  attention: []             # resolutions with self-attention, in positions",
        "  lr: 1e-05",
    ]
    said = capsys.readouterr().out
    assert "  network.multipliers: [1, 2] -> [1, 2, 2, 4]\n" in said
    assert "  data.size: null -> 32\n" in said
    assert "make run" in said
    assert configure("data: {size: null}\n") == 0
    assert load_params().data.size is None


def test_other_ways_of_writing_stay_as_they_are(folder: Path) -> None:
    text = BEFORE.decode().replace("multipliers: [1, 2]  ", "multipliers:  # of width\n  - 1\n  - 2\n ")
    text = text.replace("fit: crop ", "fit: 'crop'").replace("size: null ", "size:      ").replace("\n", "\r\n")
    Path("params.yaml").write_bytes(text.encode())
    assert configure("network: {multipliers: [3, 5]}\ndata: {size: 32, fit: pad, seed: 7}\n") == 0
    expected = text.replace("  - 1\r\n  - 2\r\n", "  - 3\n  - 5\r\n").replace("size:      ", "size: 32   ")
    expected = expected.replace("fit: 'crop'", "fit: pad   ").replace("seed: 0", "seed: 7", 1)
    assert Path("params.yaml").read_bytes().decode() == expected
    assert load_params().network.multipliers == (3, 5)


def test_an_overlay_is_loaded_without_a_change_of_any_file(folder: Path) -> None:
    Path("recipe.yaml").write_text("network: {width: 8, head_channels: 8}")
    plain, other = overlay.load(Path("params.yaml")), overlay.load(Path("params.yaml"), Path("recipe.yaml"))
    assert other == replace(plain, network=replace(plain.network, width=8, head_channels=8))
    assert Path("params.yaml").read_bytes() == BEFORE


def test_blocks_within_blocks_are_changed_key_by_key(tmp_path: Path) -> None:
    text = "sample:\n  heun:\n    churn: 0.0   # S_churn\n    range: [0.0, null]\n  ddim: {eta: 0.0}\n"
    (change,) = overlay.changes_of({"sample": {"heun": {"churn": 0.0}}}, {"sample": {"heun": {"churn": 2.0}}}, "p", "o")
    assert str(change) == "sample.heun.churn: 0.0 -> 2.0"
    assert overlay.replaced(text, change, Path("p")) == text.replace("churn: 0.0", "churn: 2.0")
    inner = overlay.Change(("sample", "ddim", "eta"), 0.0, 1)
    assert overlay.replaced(text, inner, Path("p")) == text.replace("eta: 0.0", "eta: 1")


BOMB = "a0: &a0 [1]\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 40))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: {batchsize: 3}", "recipe.yaml: train.batchsize is no key of params.yaml"),
        ("trian: {lr: 1.0}", "recipe.yaml: trian is no key of params.yaml"),
        ("train: {lr: -1.0}", "params.yaml with recipe.yaml: train: lr is -1.0, expected a number above 0"),
        ("train: {lr: null}", "params.yaml with recipe.yaml: train.lr is null"),
        ("train: {warmup_images: 60000}", "warmup_images + decay_images"),
        (
            "promote: {rules: [{figure: kid_second, at_most: 1.0}]}",
            "params.yaml with recipe.yaml: promote.rules has a rule for kid_second, which nothing measures where",
        ),
        ("train:", "recipe.yaml: train is null, but in params.yaml it has keys below it"),
        ("train: {lr: {a: 1}}", "recipe.yaml: train.lr has keys below it, but in params.yaml it is a value"),
        ("sample: {guidance: 2.0}\ntrain: {label_dropout: 0.0}", "label_dropout is 0"),
        ("- 1", "recipe.yaml is not a mapping"),
        ("# nothing", "recipe.yaml is empty"),
        ("train: {lr: 1.0, lr: 2.0}", "train.lr is given twice"),
        (BOMB, "repeats aliases until there are more than"),
        ("# long\n" * 200_000, "recipe.yaml has more than 200000 bytes"),
    ],
)
def test_a_bad_recipe_is_one_sentence_and_changes_nothing(
    folder: Path, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert configure(text) == 1
    said = capsys.readouterr()
    assert says in said.err
    assert (said.err.count("\n"), said.out) == (1, "")
    assert Path("params.yaml").read_bytes() == BEFORE


def test_what_is_no_recipe_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    for name, says in (
        ("pipe", "pipe is not a file"),
        ("nowhere.yaml", "nowhere.yaml was not found"),
        (".", "is not a file"),
    ):
        assert cli.main(["configure", name]) == 1
        assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new"),
    [("lr: 0.002", "lr: &rate 0.002"), ("path: data/raw   ", "path: >-\n    data/raw\n ")],
    ids=["anchor", "block"],
)
def test_a_value_that_cannot_be_replaced_in_place_is_left_to_the_user(
    folder: Path, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = BEFORE.decode().replace(old, new, 1).replace("beta2: 0.99", "beta2: *rate" if "&" in new else "beta2: 0.99")
    Path("params.yaml").write_text(text)
    load_params()
    assert configure("features: {lr: 0.5}\ntrain: {beta2: 0.5}\ndata: {path: other}\n") == 1
    assert "cannot be replaced where it stands" in capsys.readouterr().err
    assert Path("params.yaml").read_text() == text


def test_params_yaml_that_is_missing_read_only_or_not_valid_itself_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").chmod(0o444)
    assert configure("train: {lr: 0.5}") == 1
    assert "chmod u+w params.yaml" in capsys.readouterr().err
    assert Path("params.yaml").read_bytes() == BEFORE
    Path("params.yaml").chmod(0o640)
    Path("params.yaml").write_bytes(BEFORE.replace(b"beta2:", b"beta3:"))
    assert configure("train: {lr: 0.5}") == 1
    assert "train.beta3 is not a known key; did you mean train.beta2?" in capsys.readouterr().err
    Path("params.yaml").unlink()
    assert configure("train: {lr: 0.5}") == 1
    assert "params.yaml was not found" in capsys.readouterr().err
    assert not Path("params.yaml").exists()


def test_the_file_behind_a_link_is_written_and_keeps_its_permissions(folder: Path) -> None:
    Path("elsewhere").mkdir()
    Path("params.yaml").rename("elsewhere/shared.yaml").chmod(0o640)
    Path("params.yaml").symlink_to("elsewhere/shared.yaml")
    assert configure("train: {lr: 0.5}") == 0
    assert Path("params.yaml").is_symlink()
    assert Path("elsewhere/shared.yaml").stat().st_mode & 0o777 == 0o640
    assert load_params("elsewhere/shared.yaml").train.lr == 0.5
    assert sorted(path.name for path in Path("elsewhere").iterdir()) == ["shared.yaml"]


def test_params_yaml_stays_as_it_is_while_a_pipeline_runs_on_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        "from ddpm.pipeline.workspace import claim\nwith claim('a retraining'): print('held', flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        assert configure("train: {lr: 0.5}") == 1
        assert "a retraining" in capsys.readouterr().err
        assert Path("params.yaml").read_bytes() == BEFORE
    finally:
        holder.communicate("\n", timeout=HANG_SECONDS)
    assert configure("train: {lr: 0.5}") == 0
