"""Where the FID of a model lies between the steps of damaged real images, so that the number can be imagined."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ddpm.reporting.markdown import Table

FIGURE = "fid"


def levels_table(measured: Mapping[str, Any], reactions: Mapping[str, Any]) -> Table:
    """Return, for each damage, the two steps between which the model's FID lies; both arguments are reports as read."""
    value = measured.get(FIGURE)
    rows = [] if value is None else list(_rows(value, reactions))
    return Table(("damage", "FID below this model's", "FID above this model's"), rows)


def caveat(measured: Mapping[str, Any], reactions: Mapping[str, Any]) -> str:
    """Return a sentence if the model was measured with other numbers of images; empty if the FIDs compare."""
    own, theirs = measured.get("protocol", {}), reactions.get("protocol", {})
    if all(own.get(key) == theirs.get(key) for key in ("n", "reference_n")):
        return ""
    return (
        f"This model's FID is that of {own.get('n', 0):,} images against {own.get('reference_n', 0):,}, those of the "
        f"picture are of {theirs.get('n', 0):,} against {theirs.get('reference_n', 0):,}. FID falls as these numbers "
        "grow, so compare small values with care."
    )


def reasons(reactions: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each metric that did not react to the damages as it must."""
    return [each["why"] for each in reactions.get("reasons", [])]


def _rows(value: float, reactions: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    found = {each["damage"]: each["values"] for each in reactions.get("reactions", []) if each["figure"] == FIGURE}
    for damage in reactions.get("damages", []):
        values = found.get(damage["name"])
        if values:
            yield (damage["title"], *_between(value, values, damage["steps"]))


def _between(value: float, values: Sequence[float], steps: Sequence[str]) -> tuple[str, str]:
    """Return the last step before the values first exceed `value`, and the one at which they do."""
    above = next((k for k, each in enumerate(values) if each > value), None)
    named = [f"{step} ({each:.3g})" for step, each in zip(steps, values, strict=True)]
    if above is None:
        return named[-1], "no step"
    return named[above - 1] if above else "no step", named[above]
