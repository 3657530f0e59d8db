"""The command that explains the keys of params.yaml."""

import argparse
import difflib
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.params_reference import Key


def explain(args: argparse.Namespace) -> None:
    """Print meaning, allowed values, present value and effect of a key; of a section or of all, one line per key."""
    from ddpm.params_reference import keys

    params = Path("params.yaml")
    if not params.exists():
        raise UserError(f"{params} was not found in {Path.cwd()}; run `ddpm explain` in the project's folder")
    known = keys(params)
    asked = args.key or ""
    found = [key for key in known if not asked or key.name == asked or key.name.startswith(f"{asked}.")]
    if not found:
        nearest = difflib.get_close_matches(asked, [key.name for key in known], n=1, cutoff=0.7)
        similar = [key.name for key in known if asked in key.name.split(".")] or nearest
        hint = f"did you mean {' or '.join(similar)}?" if similar else "`ddpm explain` lists all keys"
        raise UserError(f"{asked} is no key of params.yaml; {hint}")
    if found[0].name == asked:
        print("\n".join(_whole(found[0])))
        return
    width = max(len(key.name) for key in found)
    for key in found:
        print(f"{key.name:{width}}  {_value(key)}  ({key.allowed})")


def _whole(key: "Key") -> list[str]:
    stages = f"{', '.join(key.stages)}, and later stages if their input changes" if key.stages else "no stage"
    rows = {"meaning": key.meaning, "values": key.allowed, "here": _value(key), "reruns": stages}
    lines = [key.name]
    for title, text in rows.items():
        lines += textwrap.wrap(text, 110, initial_indent=f"  {title:9}", subsequent_indent=" " * 11)
    return lines


def _value(key: "Key") -> str:
    from ddpm.overlay import as_yaml
    from ddpm.params_reference import MISSING

    return "not set" if key.value is MISSING else as_yaml(key.value)
