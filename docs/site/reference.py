"""The pages of the site that are made of the code: every command with its options, and every key of params.yaml."""

import argparse
import re
from pathlib import Path

from ddpm.cli import parser
from ddpm.overlay import as_yaml
from ddpm.params_reference import keys


def command_line() -> str:
    """Return the page of all commands, in Markdown."""
    top = parser()
    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    parts = [
        "# Every command",
        f"{top.description} `ddpm COMMAND --help` prints the same.",
        "\n".join(
            f"- [`ddpm {choice.dest}`](#ddpm-{choice.dest}): {escaped(choice.help or '')}"
            for choice in commands._choices_actions
        ),
    ]
    for name, command in commands.choices.items():
        example = (command.epilog or "").removeprefix("example: ")
        parts += [f"## ddpm {name}", escaped(command.description or ""), f"```sh\n{example}\n```"]
        rows = [_row(command, action) for action in command._actions if not isinstance(action, argparse._HelpAction)]
        if rows:
            parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(command: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper() if action.nargs != 0 else None
    if action.choices is not None and action.metavar is None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    names = [f"{option} {value}" if value else option for option in action.option_strings] or [str(value)]
    help_text = command._get_formatter()._expand_help(action) if action.help else ""
    required = " Required." if action.required and action.option_strings else ""
    return f"| {', '.join(f'`{cell(name)}`' for name in names)} | {escaped(help_text)}{required} |"


def params(root: Path) -> str:
    """Return the page of all keys of params.yaml, in Markdown."""
    parts = [
        "# Every key of params.yaml",
        "`ddpm explain KEY` prints the same. The default is the value of the `params.yaml` that comes with the "
        "project. A change reruns the stages of the last column, and later ones if their input changes; stage "
        "`configure` checks the whole file after every change. Keys without a stage change no result, or only by "
        "rounding ([What is exact, and what is not?](../exactness.md)).",
    ]
    section = None
    for key in keys(root / "params.yaml"):
        name, _, rest = key.name.partition(".")
        if name != section:
            section = name
            parts.append(f"\n## {name}\n\n| key | default | values | meaning | reruns |\n|---|---|---|---|---|")
        default = f"`{cell(as_yaml(key.value))}`"
        stages = ", ".join(key.stages)
        parts.append(f"| `{rest or name}` | {default} | {escaped(key.allowed)} | {escaped(key.meaning)} | {stages} |")
    return "\n".join([*parts[:1], "", *parts[1:], ""])


def cell(text: str) -> str:
    """Return text that does not end the cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def escaped(text: str) -> str:
    """Return text whose characters outside of backticks mean nothing in Markdown or HTML, for the cell of a table."""
    parts = cell(text).split("`")
    outside = [re.sub(r"([\\*_<\[\]$])(?!\|)", r"\\\1", part) for part in parts]
    return "`".join(outside[k] if k % 2 == 0 else part for k, part in enumerate(parts))
