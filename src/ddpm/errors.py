"""The error a user can mend."""


class UserError(Exception):
    """One sentence: what was read, what was expected, what to do. Stages print it without a traceback."""
