"""Why the pipeline has to run: what has changed since DVC recorded the last results, with old and new values."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dvc_stage

from ddpm.pipeline.dvc_lock import recorded_params

_SHORT_CHARACTERS = 80
"""Longest reason in the name of a run."""
_VALUE_CHARACTERS = 40
_ABSENT = object()
"""The value of a parameter that there is not."""


@dataclass(frozen=True)
class Reason:
    """A change, with the stages that it reruns."""

    rank: int
    """0: a parameter, 1: data, 2: code, 3: a file between stages or an output."""
    what: str
    """For example `train.images 3000 → 4000`."""
    stages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.what} ({', '.join(self.stages)})" if self.stages else self.what


def of_changes(found: Mapping[str, list[Any]], *, data: Path) -> list[Reason]:
    """Return the reasons in the answer of `dvc status --json`, the most telling first; empty if nothing changed.

    `data` is the path of the user's data, data.path.
    """
    recorded, current = recorded_params(), _current_params()
    stages: dict[tuple[int, str], list[str]] = {}
    for stage, findings in found.items():
        for rank, what in _of_stage(findings, recorded.get(stage, {}), current, data=data):
            stages.setdefault((rank, what), []).append(stage)
    if len(stages) > 1:  # stage `configure` depends on all of params.yaml and of the code, so it adds nothing
        stages = {key: names for key, names in stages.items() if not (key[0] == 2 and names == ["configure"])} or stages
    reasons = [Reason(rank, what, tuple(names)) for (rank, what), names in stages.items()]
    order = sorted(dvc_stage.stages(), key=lambda stage: stage == "configure")
    return sorted(reasons, key=lambda reason: (reason.rank, min(map(order.index, reason.stages))))


def in_short(reasons: list[Reason]) -> str:
    """Return the first reason and the number of the others, in one line for the name of a run."""
    first = textwrap.shorten(reasons[0].what, _SHORT_CHARACTERS, placeholder=" …")
    return first if len(reasons) == 1 else f"{first} and {len(reasons) - 1} more"


def _of_stage(
    findings: list[Any], recorded: Mapping[str, Any], current: Mapping[str, Any], *, data: Path
) -> list[tuple[int, str]]:
    reasons: list[tuple[int, str]] = []
    for finding in findings:
        if not isinstance(finding, dict):
            reasons.append((3, str(finding)))
            continue
        for kind, items in finding.items():
            for name, what in items.items():
                if isinstance(what, dict):
                    for key in what:
                        old, new = _leaves(recorded.get(key, _ABSENT)), _leaves(_at(current, key))
                        reasons += [(0, change) for change in _changed(key, old, new)]
                elif kind == "changed outs":
                    reasons.append((3, f"output {name} {what}"))
                elif Path(name) == data:
                    reasons.append((1, f"data in {name} {what}"))
                else:
                    reasons.append((2 if name.startswith("src/") else 3, f"{name} {what}"))
    return reasons


def _changed(section: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the differing settings of a section as `name old → new`, or the section itself if none differs."""
    names = [name for name in {**old, **new} if old.get(name, _ABSENT) != new.get(name, _ABSENT)]
    return [
        f"{'.'.join(filter(None, (section, name)))} {_shown(old, name)} → {_shown(new, name)}" for name in names
    ] or [f"{section} modified"]


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "(none)"
    value = values[name]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return textwrap.shorten(text, _VALUE_CHARACTERS, placeholder=" …") or '""'


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the settings of a section by their names below it; a single setting has the name ""."""
    if not isinstance(value, Mapping) or not value:
        return {} if value is _ABSENT else {prefix: value}
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        leaves |= _leaves(inner, f"{prefix}.{name}" if prefix else str(name))
    return leaves


def _at(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values.get(name, _ABSENT) if isinstance(values, Mapping) else _ABSENT
    return values


def _current_params() -> dict[str, Any]:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(Path("params.yaml").read_text()) or {}
