"""A page of parts that fits into a limited number of characters."""

from collections.abc import Iterable


def fitted(parts: Iterable[str], *, limit: int | None, rest: str) -> str:
    """Join the parts that fit into `limit` characters, in order; skip those that do not, and end with `rest` then."""
    parts = [part for part in parts if part]
    whole = "\n\n".join(parts)
    if limit is None or len(whole) <= limit:
        return whole
    taken, left = [], limit - len(rest)
    for part in parts:
        if len(part) + 2 <= left:
            taken.append(part)
            left -= len(part) + 2
    return "\n\n".join([*taken, rest])
