"""A person's commands about a version: approve or reject one that waits, put one before the gate again."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.cli.arguments import Commands, add_device, add_name
from ddpm.cli.model import load_version, registered_name, registry_of
from ddpm.cli.registry import canary_here

if TYPE_CHECKING:
    from ddpm.measuring.contest import PairedContest


def add_commands(commands: Commands) -> None:
    """Add approve and reconsider."""
    asked = add_name(
        commands.add(
            approve,
            "approve or reject a version that waits for a person",
            'ddpm approve 4 --reason "looked at the samples"',
        )
    )
    asked.add_argument("number", metavar="VERSION", help="number of the version, as `ddpm versions` lists it")
    asked.add_argument("--reject", action="store_true", help="reject it: the champion stays")
    asked.add_argument(
        "--skip-canary", action="store_true", help="do not serve the version for a test first; stored in the registry"
    )

    again = add_name(
        commands.add(
            reconsider,
            "put a version before the gate again",
            'ddpm reconsider 4 --reason "the camera was broken, not the model"',
        )
    )
    again.add_argument("number", metavar="VERSION", help="number of the version, as `ddpm versions` lists it")
    add_device(again)

    for parser in (asked, again):
        parser.add_argument("--reason", required=True, help="why; stored in the registry")
        parser.add_argument("--by", metavar="NAME", help="who decides; stored in the registry (default: your account)")


def approve(args: argparse.Namespace) -> None:
    """Approve a version that waits for a person, or reject it."""
    from ddpm.promotion import approval

    registry = registry_of(registered_name(args))
    if args.reject:
        approval.reject(registry, args.number, reason=args.reason, by=args.by)
        print(f"version {args.number} of {registry.name} is rejected")
        return
    reason = f"{args.reason} (without the canary)" if args.skip_canary else args.reason
    canary = None if args.skip_canary else canary_here()
    move = approval.approve(registry, args.number, reason=reason, by=args.by, canary=canary)
    before = f" and replaces version {move.previous}" if move.previous else ""
    print(f"version {move.version} of {registry.name} is approved: it is now the champion{before}")


def reconsider(args: argparse.Namespace) -> None:
    """Measure a version on the data of this folder, and let the gate decide between it and the present champion.

    Unlike in a retraining, a rollback or a rejection by a person is no obstacle. The history keeps who asked and why.
    """
    from ddpm.cli.grounds import grounds
    from ddpm.generation.recipe import load_model
    from ddpm.measuring.contest import PairedContest, draw_block
    from ddpm.promotion.judge import Asked, judge, summary
    from ddpm.promotion.registry import SIGNATURE, version
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    registry = MlflowRegistry(registered_name(args))
    candidate, here = version(registry, args.number), grounds(args)
    own = load_version(candidate, args.device)
    here.require_comparable(own, f"version {candidate.number}")
    seed = here.params.sample.seed
    first = draw_block(own, here.images, seed, 0, here.measuring)

    def contest(champion: Path | None) -> "PairedContest":
        other = None if champion is None else load_model(champion, here.measuring.device)
        return PairedContest(own, other, first_block=first, seed=seed, measuring=here.measuring)

    alone = contest(None)
    record = alone.candidate_record()
    registry.keep_record(candidate.number, record)  # in place of the signed one if the protocol is the same
    if SIGNATURE in candidate.tags:
        registry.sign_again(candidate.number)
    with tempfile.TemporaryDirectory() as folder:
        outcome = judge(
            version(registry, candidate.number),
            registry,
            rules=here.params.promote,
            begin=lambda _, champion: contest(champion),
            folder=Path(folder),
            likelihood=here.likelihood_of(alone),
            unfit=here.unfit,
            measured=record,
            canary=canary_here(),
            asked=Asked(args.by or registry.user, args.reason),
        )
    print(summary(outcome, metric=here.params.promote.main.name))
