"""The command `ddpm`: generate and serve images, change settings, and manage the registered versions of a model."""

import argparse
import difflib
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ddpm.cli import (
    approval,
    compare,
    doctor,
    drift,
    exchange,
    explain,
    gate,
    images,
    operate,
    plan,
    registry,
    serving,
    spread,
)
from ddpm.errors import UserError, not_installed, on_one_line
from ddpm.files import disk_trouble
from ddpm.pipeline import running_list
from ddpm.redaction import redacted_output
from ddpm.sampling.catalogue import SAMPLERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; without arguments, list the commands.

    The exit code is 0 on success, 1 after an error, and 130 after Ctrl-C. argparse exits with 2 if the arguments are
    wrong. An error that the user can correct is printed as one sentence, any other with its traceback. Credentials are
    removed from all output.
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
        except KeyboardInterrupt:
            return 130
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
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=17),  # one line per command
    )
    top.set_defaults(run=None)
    top.add_argument("--version", action="version", version=f"ddpm-factory {version('ddpm-factory')}")
    commands = top.add_subparsers(prog="ddpm", metavar="COMMAND [OPTIONS]", title="commands")

    def command(run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(
            run.__name__.replace("_", "-"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
        )
        subparser.set_defaults(run=run)
        return subparser

    def add_name(subparser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        subparser.add_argument("--name", help="name of the registered model (default: promote.name in params.yaml)")
        return subparser

    def add_model(subparser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        source = add_name(subparser).add_mutually_exclusive_group()
        source.add_argument("--model", type=Path, metavar="FILE", help="a .safetensors file; needs no registry")
        source.add_argument("--version", help="number of a registered version (default: the champion)")
        return subparser

    def add_device(subparser: argparse.ArgumentParser) -> None:
        subparser.add_argument(
            "--device",
            choices=("auto", "cuda", "mps", "cpu"),
            default="auto",
            help="auto: a GPU if there is one, else the CPU (default: auto)",
        )

    def add_output(subparser: argparse.ArgumentParser, number: str) -> argparse.ArgumentParser:
        add_model(subparser)
        subparser.add_argument(
            "--out",
            type=Path,
            required=True,
            metavar="PATH",
            help="a .png file for a grid of all images, or a new folder for one file per image",
        )
        subparser.add_argument("-n", "--number", type=int, help=f"number of images (default: {number})")
        subparser.add_argument("--seed", type=int, help="the same seed gives the same images (default: random)")
        subparser.add_argument(
            "--guidance", type=float, help="guidance scale; 1: none; above 1: clearer classes, less variety"
        )
        add_device(subparser)
        return subparser

    def add_input(subparser: argparse.ArgumentParser, steps: str, number: str = "1") -> argparse.ArgumentParser:
        add_output(subparser, number)
        subparser.add_argument(
            "--image",
            type=Path,
            required=True,
            metavar="FILE",
            help="the input picture, of the model's size (super-resolution: smaller by a whole factor)",
        )
        subparser.add_argument("--label", help="class, by name or index (default: no class)")
        subparser.add_argument("--steps", type=int, help=f"steps of the reverse process (default: {steps})")
        return subparser

    sample = add_output(
        command(
            images.sample,
            "generate images with the champion, a version or a model file",
            "ddpm sample --number 16 --label 3 --seed 1 --out threes.png",
        ),
        "16",
    )
    sample.set_defaults(number=16)
    sample.add_argument("--label", help="class, by name or index (default: all classes in turn)")
    sample.add_argument("--steps", type=int, help="steps of the reverse process (default: the model's recipe)")
    sample.add_argument(
        "--sampler",
        choices=SAMPLERS,
        metavar="NAME",
        help=f"one of {', '.join(SAMPLERS)} (default: the model's recipe)",
    )
    sample.add_argument("--eta", type=float, help="only for ddim; 0: deterministic, 1: as random as ddpm")

    inpaint = add_input(
        command(
            images.inpaint,
            "repaint the masked part of a picture and keep the rest",
            "ddpm inpaint --image digit.png --mask mask.png --number 4 --out painted",
        ),
        "50",
    )
    inpaint.add_argument(
        "--mask", type=Path, required=True, metavar="FILE", help="a picture that is white where the model paints"
    )
    inpaint.add_argument("--jump", type=int, help="number of steps that each resampling goes back (default: 5)")
    inpaint.add_argument(
        "--resamplings", type=int, help="more resamplings fit the painted part better and take longer (default: 10)"
    )

    restore = add_input(
        command(
            images.restore,
            "restore a small, blurred, noisy or colourless picture",
            "ddpm restore --task super-resolution --image small.png --out large",
        ),
        "25",
    )
    restore.add_argument(
        "--task",
        required=True,
        choices=("super-resolution", "deblur", "denoise", "colourise"),
        help="what to restore in the picture",
    )
    restore.add_argument(
        "--blur", type=float, help="only for deblur: standard deviation of the Gaussian blur in pixels"
    )
    restore.add_argument(
        "--noise", type=float, help="only for denoise: standard deviation of the noise in grey levels (0..255)"
    )

    edit = add_input(
        command(
            images.edit,
            "vary a picture: add noise to it and denoise it again",
            "ddpm edit --image three.png --strength 0.6 --label 8 --guidance 3 --out edited",
        ),
        "50",
    )
    edit.add_argument("--strength", type=float, help="0 keeps the picture, 1 replaces it with a new one (default: 0.6)")

    interpolate = add_input(
        command(
            images.interpolate,
            "generate the images between two pictures",
            "ddpm interpolate --image three.png --other eight.png --out between.png",
        ),
        "25",
        number="8, including both ends",
    )
    interpolate.add_argument("--other", type=Path, required=True, metavar="FILE", help="the picture at the other end")

    for run, summary, example in (
        (serving.serve, "serve images over HTTP, within the limits in params.yaml", "ddpm serve --port 5001"),
        (serving.page, "open a page in the browser that generates and changes images", "ddpm page"),
    ):
        served = add_model(command(run, summary, example))
        served.add_argument("--host", default="127.0.0.1", help="address to listen on (default: only this machine)")
        served.add_argument(
            "--port", type=int, default=5001, help="port to listen on; 0: any free port (default: 5001)"
        )
        served.add_argument(
            "--allowed-host",
            action="append",
            default=[],
            metavar="NAME",
            help="a name of this server in browsers' addresses, besides localhost and IP addresses; can be repeated",
        )
        add_device(served)
        if run is serving.page:
            served.add_argument("--no-browser", action="store_true", help="only print the address of the page")

    add_name(command(registry.versions, "list the registered versions, newest first", "ddpm versions"))

    add_name(command(registry.history, "list the champions in time, newest first", "ddpm history"))

    asked = add_name(
        command(
            gate.gate,
            "ask the gate about two models, and change nothing",
            "ddpm gate 4 3",
        )
    )
    asked.add_argument("candidate", help="number of a version, or a model file")
    asked.add_argument("champion", help="number of a version, or a model file")
    asked.add_argument("--images", type=_positive, help="images of each at the first look (default: sample.images)")
    asked.add_argument("--max-images", type=_positive, help="images of each at most (default: promote.max_images)")
    asked.add_argument("--seed", type=int, help="seed of the images of both (default: sample.seed)")
    add_device(asked)

    compared = add_name(
        command(
            compare.compare,
            "put samples and metrics of two versions side by side",
            "ddpm compare 3 4 --seed 1",
        )
    )
    for dest in ("number_a", "number_b"):
        compared.add_argument(dest, metavar="VERSION", help="number of a version, as `ddpm versions` lists it")
    compared.add_argument("-n", "--number", type=_positive, default=36, help="images of each version (default: 36)")
    compared.add_argument("--seed", type=int, help="seed of the images of both (default: random)")
    compared.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="a .png file; the text is written beside it as .md (default: compare-VERSION-VERSION.png)",
    )
    add_device(compared)

    promote = add_name(
        command(
            registry.promote,
            "make a version the champion",
            'ddpm promote 4 --reason "looked at the samples, sharper"',
        )
    )
    promote.add_argument("number", metavar="VERSION", help="number of the version, as `ddpm versions` lists it")
    promote.add_argument("--reason", required=True, help="why; stored in the registry")
    promote.add_argument(
        "--skip-canary", action="store_true", help="do not serve the version for a test first; stored in the registry"
    )

    approval.add_commands(command, add_name, add_device)

    rollback = add_name(
        command(
            registry.rollback,
            "make the previous champion the champion again",
            'ddpm rollback --reason "blurred eights in production"',
        )
    )
    rollback.add_argument("--reason", default="no reason given", help="why; stored in the registry")

    import_unet = command(
        exchange.import_unet,
        "convert a UNet2DModel saved by diffusers into a model file",
        "ddpm import-unet ddpm-cifar10-32 --out models/cifar10.safetensors",
    )
    import_unet.add_argument("folder", type=Path, help="a saved pipeline, or a saved network with its config.json")
    import_unet.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors file")
    import_unet.add_argument(
        "--schedule",
        choices=("linear", "cosine"),
        help="noise schedule, if the folder has no scheduler_config.json (default: linear)",
    )
    import_unet.add_argument(
        "--target",
        choices=("eps", "v", "x_0"),
        help="what the network predicts, if the folder has no scheduler_config.json (default: eps)",
    )
    import_unet.add_argument(
        "--null-label", action="store_true", help='the last class means "no label", which guidance uses'
    )

    export_unet = add_model(
        command(
            exchange.export_unet,
            "write a model as a folder that diffusers' DDPMPipeline reads",
            "ddpm export-unet --model models/model.safetensors --out exported",
        )
    )
    export_unet.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    export_unet.set_defaults(device="cpu")

    configure = command(
        operate.configure, "write the values of a recipe into params.yaml", "ddpm configure recipes/grey-32.yaml"
    )
    configure.add_argument(
        "recipe",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="a YAML file with the values to change, or the name of one in recipes/; without one, these are listed",
    )
    configure.add_argument(
        "--fit", action="store_true", help="lower the limits that the prepared images are too few for, instead"
    )

    explained = command(
        explain.explain, "say what a key of params.yaml means and which values it takes", "ddpm explain train.lr"
    )
    explained.add_argument(
        "key", nargs="?", metavar="KEY", help="a key or a section of params.yaml (default: a list of all keys)"
    )

    command(operate.look, "check that the files at data.path can be read", "ddpm look")

    mended = command(doctor.doctor, "list what killed processes left, and mend it", "ddpm doctor --mend")
    mended.add_argument("--mend", action="store_true", help="close and remove what no process works on any more")

    drifted = command(drift.drift, "say whether the pictures of a folder differ from the data", "ddpm drift incoming")
    drifted.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of pictures, or of folders of classes")
    drifted.add_argument(
        "--out",
        type=Path,
        default=Path("reports/drift.png"),
        metavar="FILE",
        help="the picture (default: reports/drift.png)",
    )
    drifted.add_argument("--record", type=Path, metavar="FILE", help="write the figures to this JSON file, too")

    planned = command(plan.plan, "measure how long the training takes and what it needs", "ddpm plan")
    for option, default, content in (
        ("--prepared", "data/prepared", "the prepared images"),
        ("--state", ".state/train", "the state of trainings that were interrupted"),
    ):
        planned.add_argument(
            option, type=Path, default=Path(default), metavar="FOLDER", help=f"{content} (default: {default})"
        )

    again = command(spread.spread, "measure how far trainings with other seeds differ", "ddpm spread --seeds 3")
    again.add_argument("--seeds", type=_positive, default=3, help="number of trainings, at least 2 (default: 3)")

    report = add_name(command(operate.report, "show the results of the last run of the pipeline", "ddpm report"))
    for option, dest, default, content in (
        ("--metrics", "metrics", "reports/metrics.json", "the metrics"),
        ("--run", "run_json", "models/run.json", "the MLflow run of the training"),
        ("--grid", "grid", "reports/samples.png", "the grid of samples"),
        ("--animation", "animation", "reports/reverse_process.gif", "the animation of the reverse process"),
    ):
        report.add_argument(
            option, dest=dest, type=Path, default=Path(default), metavar="FILE", help=f"{content} (default: {default})"
        )
    return top


def _positive(text: str) -> int:
    """Return a number of 1 or above. Raises ValueError, which argparse reports."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number
