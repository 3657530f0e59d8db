"""What README.md and the pages of docs/ tell a newcomer to type is there to be typed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ddpm import model_file
from ddpm.cli import parser
from ddpm.model_spec import Spec, build_network
from ddpm.networks.settings import CONVENTION
from ddpm.params import load as load_params
from ddpm.reporting.measurements import metrics_lines

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
ALL = "\n".join(PAGES.values())
PREFECT_WORDS = ("server", "start", "deploy", "worker", "deployment", "run")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", ALL, re.DOTALL)


def in_blocks() -> set[str]:
    """Every shell line, without its comment; continued lines joined."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return {re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()} - {""}


def commands() -> list[str]:
    """Those, and the commands in the text."""
    in_text = {text for text in re.findall(r"`((?:ddpm|dvc|prefect) [^`\n]+)`", ALL) if "…" not in text}
    return sorted(in_blocks() | in_text)


def changed(params: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        params = params[int(section) if isinstance(params, list) else section]
    assert last in params, f"the docs name {key}, which params.yaml does not have"
    params[last] = value


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"`make ([a-z-]+)", ALL)) | set(re.findall(r"^make ([a-z-]+)", ALL, re.MULTILINE))
    assert {"run", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    made_by_running = ("reports/", "models/", "data/prepared", "data/generated", "mlflow.db", "mlartifacts/", ".state/")
    yours = ("data/raw/images.zip", "train/", "test/", "data/raw/", "unet/")
    for path in re.findall(r"`([\w.]+/[\w./-]*|[\w-]+\.(?:yaml|py|md|json))`", PAGES[page]):
        if path.endswith(("/", ".yaml", ".py", ".md")) and not path.startswith(made_by_running + yours):
            assert any((folder / path).exists() for folder in (ROOT, ROOT / "src/ddpm")), path


def test_every_setting_exists_and_is_accepted(tmp_path: Path) -> None:
    yaml = YAML(typ="safe")
    for block in blocks("yaml"):
        params = yaml.load((ROOT / "params.yaml").read_text())
        for section, values in yaml.load(block).items():
            if not isinstance(values, dict):  # a key that is no section
                assert section in params
                params[section] = values
                continue
            for key, value in values.items():
                changed(params, f"{section}.{key}", value)
        yaml.dump(params, tmp_path / "params.yaml")
        load_params(tmp_path / "params.yaml")
    for command in commands():
        params = yaml.load((ROOT / "params.yaml").read_text())
        for key, value in re.findall(r"-S ([\w.]+)=(\S+)", command):
            changed(params, key, yaml.load(value))
        yaml.dump(params, tmp_path / "params.yaml")
        load_params(tmp_path / "params.yaml")
    params = yaml.load((ROOT / "params.yaml").read_text())
    for key, value in re.findall(r"`(\w+\.\w+): ([^`]+)`", README):
        changed(params, key, yaml.load(value))
    yaml.dump(params, tmp_path / "params.yaml")
    load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("ddpm ")])
def test_every_ddpm_command_is_understood(command: str) -> None:
    if command in in_blocks():
        parser().parse_args(shlex.split(command)[1:])
        return
    names = {name for action in parser()._actions for name in (action.choices or ())}  # the text may name no option
    assert command.split()[1] in {*names, "--help", "COMMAND", "KEY"}


def test_every_dvc_and_prefect_command_exists() -> None:
    """`--help` of the command, so that a renamed one is seen; the flows' and registry's tests run them for real."""
    from dvc.cli.parser import get_main_parser

    seen = set()
    for command in commands():
        words = command.split()
        if "dvc" in words[:2]:
            words = words[words.index("dvc") :]
            seen.add((words[0], *[w for w in words[1:3] if not w.startswith("-")]))
        if words[0] == "prefect":
            seen.add((words[0], *[w for w in words[1:] if w in PREFECT_WORDS]))
    assert len(seen) >= 5
    for tool, *words in seen:
        if tool == "dvc":
            with pytest.raises(SystemExit) as ended:
                get_main_parser().parse_args([*words, "--help"])
            assert ended.value.code == 0, words
        else:
            prefect = Path(sys.executable).with_name("prefect")
            subprocess.run([prefect, *words, "--help"], check=True, capture_output=True)


def test_the_python_example_draws(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    spec = Spec(
        channels=1,
        size=8,
        classes=tuple(str(k) for k in range(10)),
        unconditional=True,
        schedule=params.schedule,
        objective=params.objective,
        network=params.network,
        convention=CONVENTION,
    )
    model_file.save(tmp_path / "models" / "model.safetensors", network=build_network(spec), spec=spec, lineage={})
    (example,) = blocks("python")
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True)
    assert (tmp_path / "digits.png").stat().st_size > 100


def test_the_printed_metrics_are_those_that_were_measured() -> None:
    """Each line is one that `ddpm report` prints about the committed reports/metrics.json."""
    measured = json.loads((ROOT / "reports" / "metrics.json").read_text())
    (printed,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    lines = [line for line in printed.partition("\n\n")[0].splitlines() if line != "…"]
    assert sum(line.endswith("is better") for line in lines) >= 4
    assert set(lines) <= set(metrics_lines(measured))
