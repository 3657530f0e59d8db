"""The commands that messages advise. They run as printed."""

import shlex


def promote_command(name: str, number: str) -> str:
    """Return the command that makes this version of the registered model `name` the champion."""
    return f'ddpm promote {number}{name_option(name)} --reason "why"'


def approve_command(name: str, number: str, *, reject: bool = False) -> str:
    """Return the command that approves or rejects this version, which waits for a person."""
    return f'ddpm approve {number}{name_option(name)}{" --reject" if reject else ""} --reason "why"'


def reconsider_command(name: str, number: str) -> str:
    """Return the command that puts this version before the gate again."""
    return f'ddpm reconsider {number}{name_option(name)} --reason "why"'


def rollback_command(name: str) -> str:
    """Return the command that makes the previous champion of the registered model `name` the champion again."""
    return f'ddpm rollback{name_option(name)} --reason "why"'


def name_option(name: str) -> str:
    """Return the option that names the registered model, with a space before it; empty for the default name."""
    return "" if name == "ddpm" else f" --name {shlex.quote(name)}"
