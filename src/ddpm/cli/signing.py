"""The commands about signatures of versions: sign one, verify one."""

import argparse
from pathlib import Path

from ddpm.cli.arguments import Commands, add_name
from ddpm.cli.model import registered_name, verify_key_here
from ddpm.errors import UserError


def add_commands(commands: Commands) -> None:
    """Add sign and verify."""
    signed = commands.add(sign, "sign a version as it is now", "ddpm sign 4 --key ~/keys/models.pem")
    verified = commands.add(verify, "say whether a version is what the owner of a key signed", "ddpm verify 4")
    for parser, meaning in (
        (signed, "file of the private key, in PEM form (default: DDPM_SIGNING_KEY)"),
        (verified, "file of the public key, in PEM form (default: signing.verify_key in params.yaml)"),
    ):
        add_name(parser).add_argument(
            "number", metavar="VERSION", help="number of the version, as `ddpm versions` has it"
        )
        parser.add_argument("--key", type=Path, metavar="FILE", help=meaning)


def sign(args: argparse.Namespace) -> None:
    """Sign model file, model card, metrics, origin and what was kept of a version, with a person's own key."""
    from ddpm.signing.signature import KEY_VARIABLE, private_key
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    key = private_key(args.key)
    if key is None:
        raise UserError(f"no key to sign with is named; name its file by --key or in {KEY_VARIABLE}")
    registry = MlflowRegistry(registered_name(args))
    names = registry.sign(args.number, key)
    print(f"version {args.number} of {registry.name} is signed with {key.path}: {', '.join(names)}")


def verify(args: argparse.Namespace) -> None:
    """Print what of a version was verified with a public key."""
    from ddpm.promotion.registry import version
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    key = args.key or verify_key_here()
    if key is None:
        raise UserError("no key to verify with is named; name its file by --key or in params.yaml (signing.verify_key)")
    registry = MlflowRegistry(registered_name(args))
    names = registry.verify(version(registry, args.number), key)
    print(f"version {args.number} of {registry.name} is what the owner of {key} signed: {', '.join(names)}")
