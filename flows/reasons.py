"""Why the pipeline has to run: what has changed since DVC recorded the last results, with old and new values."""

import json
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dvc_stage

from ddpm.pipeline.dvc_lock import recorded_params

_SETTING, _DATA, _CODE, _FILE = range(4)
_TAGS = ("settings", "data", "code", "files")
"""Prefect's tag of a run with a reason of each rank."""
_SHORT_CHARACTERS = 80
"""Longest reason in the name of a run."""
_VALUE_CHARACTERS = 40
_ABSENT = object()
"""The value of a parameter that there is not."""


@dataclass(frozen=True)
class Reason:
    """A change, with the stages that it reruns."""

    rank: int
    """The most telling kind is 0: a setting, 1: data, 2: code, 3: a file between stages or an output."""
    what: str
    """For example `train.images 3000 → 4000`."""
    stages: tuple[str, ...] = ()
    kind: str | None = None
    """Prefect's tag of a run with this reason; None: that of the rank."""

    @property
    def tag(self) -> str:
        return self.kind or _TAGS[self.rank]

    def __str__(self) -> str:
        return f"{self.what} ({', '.join(self.stages)})" if self.stages else self.what


def of_changes(found: Mapping[str, list[Any]], *, data: Path) -> list[Reason]:
    """Return the reasons in the answer of `dvc status --json`, the most telling first; empty if nothing changed.

    `data` is the path of the user's data, data.path.
    """
    if _has_no_results(found):  # a dvc.lock of another clone: how its results differ would be a hundred reasons
        return [Reason(0, "no results in this folder yet", kind="first")]
    recorded, current = recorded_params(), _current_params()
    stages: dict[tuple[int, str], list[str]] = {}
    for stage, findings in found.items():
        for rank, what in _of_stage(findings, recorded.get(stage, {}), current, data=data):
            stages.setdefault((rank, what), []).append(stage)
    if len(stages) > 1:  # stage `configure` depends on all of params.yaml and of the code, so it adds nothing
        stages = {
            key: names for key, names in stages.items() if not (key[0] == _CODE and names == ["configure"])
        } or stages
    reasons = [Reason(rank, what, tuple(names)) for (rank, what), names in stages.items()]
    order = sorted(dvc_stage.stages(), key=lambda stage: stage == "configure")
    return sorted(reasons, key=lambda reason: (reason.rank, min(map(order.index, reason.stages))))


def in_short(reasons: list[Reason]) -> str:
    """Return the reasons in one line for the name of a run: the first of them and the kinds of the others."""
    first, *others = reasons
    numbers = Counter(other.rank for other in others)
    parts = [textwrap.shorten(first.what, _SHORT_CHARACTERS, placeholder=" …")]
    if n := numbers[_SETTING]:
        parts.append(f"{n} more setting{'s' if n > 1 else ''}" if first.rank == _SETTING else "settings")
    parts += [kind for rank, kind in ((_DATA, "data"), (_CODE, "code")) if numbers[rank] and first.rank != rank]
    if others and len(parts) == 1:
        parts.append(f"{len(others)} more")
    return ", ".join(parts)


def _has_no_results(found: Mapping[str, list[Any]]) -> bool:
    """Return whether every stage lacks an output."""
    return all(any(_lacks_output(finding) for finding in found.get(stage, ())) for stage in dvc_stage.stages())


def _lacks_output(finding: Any) -> bool:
    outputs = finding.get("changed outs", {}) if isinstance(finding, dict) else {}
    return any(what in ("deleted", "not in cache") for what in outputs.values())


def _of_stage(
    findings: list[Any], recorded: Mapping[str, Any], current: Mapping[str, Any], *, data: Path
) -> list[tuple[int, str]]:
    reasons: list[tuple[int, str]] = []
    for finding in findings:
        if not isinstance(finding, dict):
            reasons.append((_FILE, str(finding)))
            continue
        for kind, items in finding.items():
            for name, what in items.items():
                if isinstance(what, dict):
                    for key in what:
                        old, new = _leaves(recorded.get(key, _ABSENT)), _leaves(_at(current, key))
                        reasons += [(_SETTING, change) for change in _changed(key, old, new)]
                elif kind == "changed outs":
                    reasons.append((_FILE, f"output {name} {what}"))
                elif Path(name) == data:
                    reasons.append((_DATA, f"data in {name} {what}"))
                else:
                    reasons.append((_CODE if name.startswith("src/") else _FILE, f"{name} {what}"))
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
