"""The error a user can mend."""

from ddpm.redaction import redacted

_LONGEST = 5_000
"""Characters at the beginning, and at the end, of a sentence; a longer one quotes what anybody may have sent."""


class UserError(Exception):
    """One sentence: what was read, what was expected, what to do. Stages print it without a traceback.

    It holds no credential, whatever was quoted in it.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(redacted(_without_middle(sentence)))

    def __str__(self) -> str:
        """On one line: what breaks or steers a line, as a file's name may, is written as Python escapes it."""
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in super().__str__())
        return "".join(shown)


def _without_middle(sentence: str) -> str:
    """Cut between words, since half a credential could not be known for one."""
    if len(sentence) <= 2 * _LONGEST:
        return sentence
    return f"{sentence[:_LONGEST].rpartition(' ')[0]} … {sentence[-_LONGEST:].partition(' ')[2]}"
