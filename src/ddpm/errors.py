"""The error that a user can correct."""

from ddpm.redaction import redacted

_LONGEST = 5_000
"""Characters kept at the beginning and at the end of a longer sentence, which may quote untrusted input."""


class UserError(Exception):
    """One sentence: what was read, what was expected, what to do. Stages print it without a traceback.

    Credentials in quoted text are redacted.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(redacted(_without_middle(sentence)))

    def __str__(self) -> str:
        return on_one_line(super().__str__())


class UnreachableError(UserError):
    """A server does not answer or refuses; the same may succeed when it is back, so flows try such a stage again."""


def on_one_line(text: str) -> str:
    """Return the text with line breaks and control characters, as in file names, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def not_installed(package: str) -> UserError:
    """What to do where a package is missing that only `pip install "ddpm-factory[pipeline]"` brings."""
    return UserError(
        f'this needs {package}, which is not installed here; run `pip install "ddpm-factory[pipeline]"`, which brings '
        "all that training, measuring and the registry need"
    )


def _without_middle(sentence: str) -> str:
    """Shorten a long sentence between words: redaction would not recognise half a credential."""
    if len(sentence) <= 2 * _LONGEST:
        return sentence
    return f"{sentence[:_LONGEST].rpartition(' ')[0]} … {sentence[-_LONGEST:].partition(' ')[2]}"
