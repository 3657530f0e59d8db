"""`ddpm explain` and the site's reference say of every key what the code says."""

import re
import sys
from pathlib import Path

import pytest

from ddpm import cli
from ddpm.params_reference import MISSING, Key, keys

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def known() -> dict[str, Key]:
    return {key.name: key for key in keys(ROOT / "params.yaml")}


def test_every_key_has_a_meaning_and_a_value(known: dict[str, Key]) -> None:
    assert len(known) > 100
    assert [name for name, key in known.items() if not key.meaning or key.value is MISSING] == []


@pytest.mark.parametrize(
    ("name", "allowed", "stages"),
    [
        ("train.lr", "a number above 0", ("train",)),
        ("train.max_hours", "a number above 0 or null", ()),
        ("schedule.T", "a whole number, 2 to 1000000 steps", ("train",)),
        ("data.fit", "crop or pad", ("prepare",)),
        ("network.groups", "a whole number above 0, a divisor of width (32) or null", ("train",)),
        ("sample.ddim.eta", "a share between 0 and 1", ("sample",)),
        ("runtime.device", "auto, cuda, mps or cpu", ()),
        ("train.augment.transforms", "a list of mirror, flip, scale, rotate, stretch or shift", ("train",)),
    ],
)
def test_the_range_of_a_key_is_the_one_that_is_checked(
    known: dict[str, Key], name: str, allowed: str, stages: tuple[str, ...]
) -> None:
    assert (known[name].allowed, known[name].stages) == (allowed, stages)


def test_explain_prints_one_key_a_section_and_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(["explain", "train.lr"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == "train.lr"
    assert re.search(r"values +a number above 0\n +here +0\.002\n +reruns +train", said)
    assert cli.main(["explain", "sample"]) == 0
    assert capsys.readouterr().out.startswith("sample.sampler")
    assert cli.main(["explain", "lr"]) == 1
    assert "did you mean features.lr or autoencoder.lr or train.lr?" in capsys.readouterr().err


def test_explain_works_while_params_yaml_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(re.sub(r"^  lr: .*\n", "", text, flags=re.MULTILINE))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", "train.lr"]) == 0
    assert "not set" in capsys.readouterr().out
    assert cli.main(["plan"]) == 1
    assert "features.lr is missing; add it (`ddpm explain features.lr` says what it means)" in capsys.readouterr().err


def test_the_pages_of_the_site_have_every_command_and_key(known: dict[str, Key]) -> None:
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        import reference
    finally:
        sys.path.pop(0)
    params = reference.params(ROOT)
    for name in known:
        assert f"| `{name.partition('.')[2] or name}` |" in params
    commands = reference.command_line()
    assert "## ddpm explain" in commands
    assert "| `--out PATH` |" in commands
    assert reference.escaped("a|b <script> *x* `<y|z>`") == "a\\|b \\<script> \\*x\\* `<y\\|z>`"
