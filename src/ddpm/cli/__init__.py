"""The command `ddpm`: generate and serve images, change settings, and manage the registered versions of a model."""

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version

from ddpm.cli import doctor, picture_commands, project_commands, version_commands
from ddpm.cli.arguments import Commands
from ddpm.errors import UserError, not_installed, on_one_line
from ddpm.files import disk_trouble
from ddpm.pipeline import running_list
from ddpm.redaction import redacted_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; without arguments, list the commands.

    The exit code is 0 on success, 1 after an error or if the reader of the output left, and 130 after Ctrl-C. argparse
    exits with 2 if the arguments are wrong. An error that the user can correct is printed as one sentence, any other
    with its traceback. Credentials are removed from all output.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and (mistake := _unknown_command(words[0])):
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    args = parser().parse_args(words)
    if args.run is None:
        parser().print_help()
        return 0
    with redacted_output():
        try:
            if args.run is not doctor.doctor:  # which changes nothing unless it is asked to
                running_list.mend(lambda sentence: print(sentence, file=sys.stderr))
            args.run(args)
            sys.stdout.flush()
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # whoever reads the output has enough, as `head` or a pager that was left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if correctable := user_error(error):
                print(f"error: {correctable}", file=sys.stderr)
            else:
                traceback.print_exc()
            return 1
    return 0


def user_error(error: Exception) -> UserError | None:
    """Return the error as a sentence that says what the user can do; None if the error is a defect of the program."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("ddpm"):
        return not_installed(error.name)
    return disk_trouble(error)


def _unknown_command(word: str) -> str | None:
    """Return one sentence if a word is neither an option nor a command."""
    known = [name for action in parser()._actions for name in (action.choices or ())]
    if word.startswith("-") or word in known:
        return None
    nearest = difflib.get_close_matches(word, known, n=1)
    return f"{on_one_line(word)} is no command; {f'did you mean {nearest[0]}?' if nearest else '`ddpm` lists all'}"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `run` to its function."""
    top = argparse.ArgumentParser(
        prog="ddpm",
        usage="ddpm COMMAND [OPTIONS]",
        description="Generate and serve images, change settings, and manage the registered versions of a model.",
        epilog="`ddpm COMMAND --help` shows the options of a command and an example.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),  # one line per command
    )
    top.set_defaults(run=None)
    top.add_argument("--version", action="version", version=f"ddpm-factory {version('ddpm-factory')}")
    commands = Commands(top)
    picture_commands.add_commands(commands)
    version_commands.add_commands(commands)
    project_commands.add_commands(commands)
    return top
