"""The commands that convert models from and to diffusers."""

import argparse
from typing import TYPE_CHECKING

from ddpm.cli.model import find_version, load
from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.model_spec import Spec


def import_unet(args: argparse.Namespace) -> None:
    """Write a model file from a folder that diffusers saved."""
    if args.out.exists():
        raise UserError(f"{args.out} already exists; name a new file")
    from ddpm.exchange import diffusers_folder

    spec, sha256 = diffusers_folder.import_model(
        args.folder, args.out, schedule=args.schedule, target=args.target, null_label=args.null_label
    )
    samples = f"{spec.size}x{spec.size}, {spec.channels} channels, {len(spec.classes)} classes"
    print(f"{args.out} ({samples}, target {spec.objective.target}, sha256 {sha256[:12]})")


def export_unet(args: argparse.Namespace) -> None:
    """Write a folder for diffusers' `DDPMPipeline.from_pretrained`, with a model card."""
    from ddpm.exchange import diffusers_folder
    from ddpm.reporting.model_card import for_diffusers

    version = None if args.model else find_version(args)
    model, name = load(args)
    card = for_diffusers(
        name, version, lineage=model.lineage, shape={"size": model.spec.size, "channels": model.spec.channels}
    )
    config = diffusers_folder.export_model(model, args.out, card=card)
    note = ", the last class means no label" if config["num_class_embeds"] else ""
    print(f"{name} in {args.out}, for diffusers' DDPMPipeline.from_pretrained{note}; README.md is its model card")


def import_codec(args: argparse.Namespace) -> None:
    """Write a model file from a folder in which diffusers saved an autoencoder."""
    if args.out.exists():
        raise UserError(f"{args.out} already exists; name a new file")
    from ddpm.exchange import autoencoder_folder

    spec, sha256 = autoencoder_folder.import_autoencoder(args.folder, args.out, size=args.size)
    images = f"{spec.size}x{spec.size}, {spec.channels} channels"
    print(f"{args.out} (images {images}; latents {_shape_of_latents(spec)}; sha256 {sha256[:12]})")


def export_codec(args: argparse.Namespace) -> None:
    """Write a folder for diffusers' `AutoencoderKL.from_pretrained`."""
    from ddpm.exchange import autoencoder_folder

    model, name = load(args)
    autoencoder_folder.export_autoencoder(model, args.out)
    print(f"the autoencoder of {name} in {args.out}, for diffusers' AutoencoderKL.from_pretrained")


def _shape_of_latents(spec: "Spec") -> str:
    assert spec.codec is not None
    return f"{spec.noise_size}x{spec.noise_size}, {spec.codec.latent_channels} channels"
