"""Text in a document that a benchmark writes: between two marks, so that the same command puts it there again."""

from pathlib import Path

from ddpm.errors import UserError


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`. Raises UserError without these."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    document = path.read_text(encoding="utf-8")
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{path} has no part between {begin!r} and {end!r}; put both lines where the text shall stand")
    path.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
