"""The command `ddpm`: draw and serve images with a model, choose settings, and manage the registered versions."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddpm.cli import exchange, images, operate, serving
from ddpm.errors import UserError, not_installed
from ddpm.files import disk_trouble
from ddpm.pipeline import running_list
from ddpm.redaction import redacted_output
from ddpm.sampling.catalogue import SAMPLERS


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 with one sentence for an error the user can mend (2: arguments that do not parse).

    Without arguments, list the commands. Nothing that is printed holds a credential, a traceback of what should not
    happen included.
    """
    args = parser().parse_args(arguments)
    if args.run is None:
        parser().print_help()
        return 0
    with redacted_output():
        try:
            running_list.mend(lambda sentence: print(sentence, file=sys.stderr))
            args.run(args)
        except KeyboardInterrupt:
            return 130
        except Exception as error:
            if told := mendable(error):
                print(f"error: {told}", file=sys.stderr)
            else:
                traceback.print_exc()
            return 1
    return 0


def mendable(error: Exception) -> UserError | None:
    """What the user can do about the error; None for one that should not happen."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("ddpm"):
        return not_installed(error.name)
    return disk_trouble(error)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="ddpm",
        usage="ddpm COMMAND [OPTIONS]",
        description="Draw and serve images with a model, choose settings, and manage the registered versions.",
        epilog="`ddpm COMMAND --help` shows the options of a command and an example.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=17),  # one line each
    )
    top.set_defaults(run=None)
    commands = top.add_subparsers(prog="ddpm", metavar="COMMAND [OPTIONS]", title="commands")

    def command(run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            run.__name__.replace("_", "-"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
        )
        made.set_defaults(run=run)
        return made

    def named(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("--name", help="registered model (default: promote.name in params.yaml)")
        return made

    def sourced(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        source = named(made).add_mutually_exclusive_group()
        source.add_argument("--model", type=Path, metavar="FILE", help="a .safetensors file; needs no registry")
        source.add_argument("--version", help="of the registered model (default: its champion)")
        return made

    def drawing(made: argparse.ArgumentParser, number: str) -> argparse.ArgumentParser:
        sourced(made)
        made.add_argument("--out", type=Path, required=True, help="a .png for one picture of all, or a new folder")
        made.add_argument("-n", "--number", type=int, help=f"images (default: {number})")
        made.add_argument("--seed", type=int, help="the same seed gives the same images (default: a fresh one)")
        made.add_argument("--guidance", type=float, help="1: the model itself; above: sharper, less varied")
        made.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
        return made

    def pictured(made: argparse.ArgumentParser, steps: str, number: str = "1") -> argparse.ArgumentParser:
        drawing(made, number)
        made.add_argument(
            "--image",
            type=Path,
            required=True,
            help="a picture of the model's size (super-resolution: a divisor of it)",
        )
        made.add_argument("--label", help="class, by name or index (default: whatever fits)")
        made.add_argument("--steps", type=int, help=f"of the reverse process (default: {steps})")
        return made

    make = drawing(
        command(
            images.sample,
            "generate images with the champion, a version or a model file",
            "ddpm sample --number 16 --label 3 --seed 1 --out threes.png",
        ),
        "16",
    )
    make.set_defaults(number=16)
    make.add_argument("--label", help="class, by name or index (default: all in turn)")
    make.add_argument("--steps", type=int, help="network evaluations per image (default: the model's)")
    make.add_argument("--sampler", choices=SAMPLERS, metavar="NAME", help=f"one of {', '.join(SAMPLERS)}")
    make.add_argument("--eta", type=float, help="ddim only: 0 deterministic, 1 as random as ddpm")

    paint = pictured(
        command(
            images.inpaint,
            "paint the masked part of a picture anew and keep the rest",
            "ddpm inpaint --image digit.png --mask mask.png --number 4 --out painted",
        ),
        "50",
    )
    paint.add_argument("--mask", type=Path, required=True, help="a picture, white where the model shall paint")
    paint.add_argument("--jump", type=int, help="steps that a resampling goes back (default: 5)")
    paint.add_argument("--resamplings", type=int, help="more: what is painted fits better, slower (default: 10)")

    mend = pictured(
        command(
            images.restore,
            "restore a small, blurred, noisy or colourless picture",
            "ddpm restore --task super-resolution --image small.png --out large",
        ),
        "25",
    )
    mend.add_argument("--task", required=True, choices=("super-resolution", "deblur", "denoise", "colourise"))
    mend.add_argument("--blur", type=float, help="deblur: width of the Gaussian, its standard deviation in pixels")
    mend.add_argument("--noise", type=float, help="denoise: standard deviation of the noise, in grey levels (0..255)")

    change = pictured(
        command(
            images.edit,
            "draw a picture anew from a chosen noise level",
            "ddpm edit --image three.png --strength 0.6 --label 8 --guidance 3 --out edited",
        ),
        "50",
    )
    change.add_argument("--strength", type=float, help="0: the picture, 1: nothing of it (default: 0.6)")

    between = pictured(
        command(
            images.interpolate,
            "draw the images between two pictures",
            "ddpm interpolate --image three.png --other eight.png --out between.png",
        ),
        "25",
        number="8, both ends included",
    )
    between.add_argument("--other", type=Path, required=True, help="the picture at the other end")

    offer = sourced(
        command(
            serving.serve,
            "serve images over HTTP, within the bounds of params.yaml",
            "ddpm serve --port 5001",
        )
    )
    offer.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    offer.add_argument("--port", type=int, default=5001, help="0: a free one (default: 5001)")
    offer.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")

    named(command(operate.versions, "list the registered versions, newest first", "ddpm versions"))

    yes = named(
        command(operate.promote, "make a version champion", 'ddpm promote 4 --reason "looked at the samples, sharper"')
    )
    yes.add_argument("number", metavar="VERSION")
    yes.add_argument("--reason", required=True, help="kept with the promotion")

    back = named(
        command(
            operate.rollback,
            "make the previous champion champion again",
            'ddpm rollback --reason "blurred eights in production"',
        )
    )
    back.add_argument("--reason", default="no reason given", help="kept with the move")

    taken = command(
        exchange.import_unet,
        "make a model file of a UNet2DModel that diffusers saved",
        "ddpm import-unet ddpm-cifar10-32 --out models/cifar10.safetensors",
    )
    taken.add_argument("folder", type=Path, help="a saved pipeline, or a network with its config.json")
    taken.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new .safetensors file")
    taken.add_argument(
        "--schedule", choices=("linear", "cosine"), help="without scheduler_config.json (default: linear)"
    )
    taken.add_argument("--target", choices=("eps", "v", "x_0"), help="without scheduler_config.json (default: eps)")
    taken.add_argument("--null-label", action="store_true", help='the last class means "no label", for guidance')

    given = sourced(
        command(
            exchange.export_unet,
            "write a model as a folder that diffusers' DDPMPipeline reads",
            "ddpm export-unet --model models/model.safetensors --out exported",
        )
    )
    given.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder")
    given.set_defaults(device="cpu")

    chosen = command(
        operate.configure, "write the values of a recipe into params.yaml", "ddpm configure recipes/mnist.yaml"
    )
    chosen.add_argument("recipe", type=Path, metavar="FILE", help="a YAML file of values that differ, as in recipes/")

    command(operate.look, "check data.path for what would make DVC wait or fail", "ddpm look")

    shown = named(command(operate.report, "show what the last run of the pipeline made", "ddpm report"))
    shown.add_argument("--metrics", type=Path, default=Path("reports/metrics.json"))
    shown.add_argument("--run", dest="run_json", type=Path, default=Path("models/run.json"))
    shown.add_argument("--grid", type=Path, default=Path("reports/samples.png"))
    shown.add_argument("--animation", type=Path, default=Path("reports/reverse_process.gif"))
    return top
