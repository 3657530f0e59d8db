"""Stages of dvc.yaml in the working folder, run in this process with the paths of their commands."""

import argparse
import importlib
import shlex
from pathlib import Path

from ruamel.yaml import YAML

from ddpm.stages.stage import Stage


def names_of_stages() -> list[str]:
    return list(_stages())


def stage_of(name: str) -> Stage:
    words = shlex.split(_stages()[name]["cmd"])[3:]
    return Stage(argparse.Namespace(**{k[2:]: Path(v) for k, v in zip(words[::2], words[1::2], strict=True)}))


def run(*names: str) -> None:
    for name in names:
        importlib.import_module(f"ddpm.stages.{name}").main(stage_of(name))


def _stages() -> dict[str, dict[str, str]]:
    return YAML(typ="safe").load(Path("dvc.yaml").read_text())["stages"]
