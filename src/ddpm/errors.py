"""The error a user can mend."""


class UserError(Exception):
    """One sentence: what was read, what was expected, what to do. Stages print it without a traceback."""

    def __str__(self) -> str:
        """On one line: what breaks or steers a line, as a file's name may, is written as Python escapes it."""
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in super().__str__())
        return "".join(shown)
