"""The command that asks the gate about two models without consequences."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.cli.model import load_version, registered_name
from ddpm.cli.registry import print_table

if TYPE_CHECKING:
    from ddpm.model_file import Model


def gate(args: argparse.Namespace) -> None:
    """Judge a candidate against a champion by the rules in params.yaml, and print the verdict of every rule."""
    from dataclasses import replace

    from ddpm.cli.grounds import grounds
    from ddpm.measuring.contest import PairedContest, draw_block
    from ddpm.promotion.gate import decide
    from ddpm.reporting.decisions import rules_table

    here = grounds(args)
    rules = replace(here.params.promote, max_images=args.max_images or here.params.promote.max_images)
    candidate, champion = (_model(args, name) for name in (args.candidate, args.champion))
    for name, model in ((args.candidate, candidate), (args.champion, champion)):
        here.require_comparable(model, name)
    seed = here.params.sample.seed if args.seed is None else args.seed
    first = draw_block(candidate, args.images or here.images, seed, 0, here.measuring)
    contest = PairedContest(candidate, champion, first_block=first, seed=seed, measuring=here.measuring)
    record = contest.candidate_record() | here.likelihood_of(contest)
    decision = decide(record, rules, contest, has_champion=True, unfit=here.unfit)
    print_table(rules_table(decision.to_json()["rules"]))
    print("\n".join(["", *decision.reasons]))
    verdict = "a person would decide" if decision.person else "would be promoted"
    if not (decision.promote or decision.person):
        verdict = "would not be promoted"
    print(f"\n{args.candidate} against {args.champion}: {verdict}; nothing was changed")


def _model(args: argparse.Namespace, name: str) -> "Model":
    from ddpm.cli.model import load_file
    from ddpm.promotion.registry import version
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    if not name.isdecimal():
        return load_file(Path(name), args.device)
    return load_version(version(MlflowRegistry(registered_name(args)), name), args.device)
