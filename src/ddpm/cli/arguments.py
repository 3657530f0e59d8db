"""The arguments that several commands have."""

import argparse
from pathlib import Path
from typing import Any


class Commands:
    """The commands of `ddpm`, each with its function, its summary and an example."""

    def __init__(self, top: argparse.ArgumentParser) -> None:
        self._subparsers = top.add_subparsers(prog="ddpm", metavar="COMMAND [OPTIONS]", title="commands")

    def add(self, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        """Add the command that has the name of this function, and return its parser."""
        subparser = self._subparsers.add_parser(
            run.__name__.replace("_", "-"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
        )
        subparser.set_defaults(run=run)
        return subparser


def add_name(subparser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add --name, the registered model; return the parser."""
    subparser.add_argument("--name", help="name of the registered model (default: promote.name in params.yaml)")
    return subparser


def add_model(subparser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options that choose a model: --name, and --model or --version; return the parser."""
    source = add_name(subparser).add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, metavar="FILE", help="a .safetensors file; needs no registry")
    source.add_argument("--version", help="number of a registered version (default: the champion)")
    return subparser


def add_device(subparser: argparse.ArgumentParser) -> None:
    """Add --device."""
    subparser.add_argument(
        "--device",
        choices=("auto", "cuda", "mps", "cpu"),
        default="auto",
        help="auto: a GPU if there is one, else the CPU (default: auto)",
    )


def positive(text: str) -> int:
    """Return a number of 1 or above. Raises ValueError, which argparse reports."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number
