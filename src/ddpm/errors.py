"""The error a user can mend."""

from ddpm.redaction import redacted


class UserError(Exception):
    """One sentence: what was read, what was expected, what to do. Stages print it without a traceback.

    It holds no credential, whatever was quoted in it.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(redacted(sentence))

    def __str__(self) -> str:
        """On one line: what breaks or steers a line, as a file's name may, is written as Python escapes it."""
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in super().__str__())
        return "".join(shown)
