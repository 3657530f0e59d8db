"""The arguments of the commands that generate images, from noise or from a picture."""

import argparse
from pathlib import Path

from ddpm.cli import images
from ddpm.cli.arguments import Commands, add_device, add_model
from ddpm.sampling.catalogue import SAMPLERS


def add_commands(commands: Commands) -> None:
    """Add sample, inpaint, restore, edit and interpolate."""
    sample = _add_output(
        commands.add(
            images.sample,
            "generate images with the champion, a version or a model file",
            "ddpm sample --number 16 --label 3 --seed 1 --out threes.png",
        ),
        "16",
    )
    sample.set_defaults(number=16)
    sample.add_argument("--label", help="class, by name or index (default: all classes in turn)")
    sample.add_argument("--text", help="caption, for a model trained with captions (default: its examples in turn)")
    sample.add_argument("--steps", type=int, help="steps of the reverse process (default: the model's recipe)")
    sample.add_argument(
        "--sampler",
        choices=SAMPLERS,
        metavar="NAME",
        help=f"one of {', '.join(SAMPLERS)} (default: the model's recipe)",
    )
    sample.add_argument("--eta", type=float, help="only for ddim; 0: deterministic, 1: as random as ddpm")

    inpaint = _add_input(
        commands.add(
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

    restore = _add_input(
        commands.add(
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

    edit = _add_input(
        commands.add(
            images.edit,
            "vary a picture: add noise to it and denoise it again",
            "ddpm edit --image three.png --strength 0.6 --label 8 --guidance 3 --out edited",
        ),
        "50",
    )
    edit.add_argument("--strength", type=float, help="0 keeps the picture, 1 replaces it with a new one (default: 0.6)")

    interpolate = _add_input(
        commands.add(
            images.interpolate,
            "generate the images between two pictures",
            "ddpm interpolate --image three.png --other eight.png --out between.png",
        ),
        "25",
        number="8, including both ends",
    )
    interpolate.add_argument("--other", type=Path, required=True, metavar="FILE", help="the picture at the other end")


def _add_output(subparser: argparse.ArgumentParser, number: str) -> argparse.ArgumentParser:
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


def _add_input(subparser: argparse.ArgumentParser, steps: str, number: str = "1") -> argparse.ArgumentParser:
    _add_output(subparser, number)
    subparser.add_argument(
        "--image",
        type=Path,
        required=True,
        metavar="FILE",
        help="the input picture, of the model's size (super-resolution: smaller by a whole factor)",
    )
    subparser.add_argument("--label", help="class, by name or index (default: no class)")
    subparser.add_argument("--text", help="caption, for a model trained with captions (default: none)")
    subparser.add_argument("--steps", type=int, help=f"steps of the reverse process (default: {steps})")
    return subparser
