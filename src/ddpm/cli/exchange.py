"""Models that come from diffusers, and that go there."""

import argparse

from ddpm.cli.model import load
from ddpm.errors import UserError


def import_unet(args: argparse.Namespace) -> None:
    """A model file from a folder of diffusers."""
    if args.out.exists():
        raise UserError(f"{args.out} is there; name a new file")
    from ddpm.exchange import diffusers_folder

    spec, sha256 = diffusers_folder.import_model(
        args.folder, args.out, schedule=args.schedule, target=args.target, null_label=args.null_label
    )
    said = f"{spec.size}x{spec.size}, {spec.channels} channels, {len(spec.classes)} classes"
    print(f"{args.out} ({said}, target {spec.objective.target}, sha256 {sha256[:12]})")


def export_unet(args: argparse.Namespace) -> None:
    """A folder for diffusers' `DDPMPipeline.from_pretrained`."""
    from ddpm.exchange import diffusers_folder

    model, called = load(args)
    config = diffusers_folder.export_model(model, args.out)
    note = ", the last class means no label" if config["num_class_embeds"] else ""
    print(f"{called} in {args.out}, for diffusers' DDPMPipeline.from_pretrained{note}")
