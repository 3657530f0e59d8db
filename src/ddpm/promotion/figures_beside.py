"""What the gate reads beside reports/metrics.json: bits per dimension, and the metrics that may not decide."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddpm.errors import UserError


def likelihood_of(path: Path) -> dict[str, float]:
    """Return the candidate's bits per dimension by metric name, from reports/bits_per_dim.json; empty if not measured.

    Raises UserError if the file is torn or of another form.
    """
    means = _read(path)
    if not all(value is None or isinstance(value, int | float) for value in means.values()):
        raise _of_another_form(path, "a number or null for each metric")
    return {f"bits_per_dim_{name}": value for name, value in means.items() if name != "images" and value is not None}


def unfit_in(path: Path, *, extractor: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the metrics that do not react as they should on these data, with the reasons, from reports/reactions.json.

    Empty if there is no such file. `extractor` is the description of the one that measures the models; None: it is not
    compared. Raises UserError if the file is torn, of another form, or of another extractor: no rule may decide by a
    metric of which nobody knows whether it may.
    """
    found = _read(path)
    if not found and not path.exists():
        return {}
    if extractor is not None and _extractor_of(found) != dict(extractor):
        raise UserError(
            f"{path} was measured with another extractor than the present one, so it does not say which metrics may "
            "decide; measure it again with `dvc repro calibrate`"
        )
    try:
        unfit = {each["figure"]: each["why"] for each in found["reasons"]}
    except (KeyError, TypeError):
        raise _of_another_form(path, "a list `reasons` of metrics, each with figure and why") from None
    if not all(isinstance(text, str) for pair in unfit.items() for text in pair):
        raise _of_another_form(path, "figure and why of each reason as text")
    return unfit


def _extractor_of(found: Mapping[str, Any]) -> Any:
    protocol = found.get("protocol")
    return protocol.get("extractor") if isinstance(protocol, Mapping) else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); write it again with `dvc repro`") from None
    if not isinstance(found, dict):
        raise _of_another_form(path, "a mapping of keys and values")
    return found


def _of_another_form(path: Path, expected: str) -> UserError:
    return UserError(
        f"{path} has another form than its stage writes, expected {expected}; write it again with `dvc repro`"
    )
