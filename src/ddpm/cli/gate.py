"""The command that asks the gate about two models without consequences."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.cli.model import load_version, registered_name
from ddpm.cli.registry import print_table
from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.model_file import Model


def gate(args: argparse.Namespace) -> None:
    """Judge a candidate against a champion by the rules in params.yaml, and print the verdict of every rule."""
    from dataclasses import replace

    from ddpm.data.reading.dataset import read_facts
    from ddpm.generation.recipe import recipe_of
    from ddpm.measuring.contest import Measuring, PairedContest, draw_block
    from ddpm.params import load as load_params
    from ddpm.pipeline.dvc_yaml import options_of_stage
    from ddpm.promotion.figures_beside import unfit_in
    from ddpm.promotion.gate import decide
    from ddpm.reporting.decisions import rules_table

    params, paths = load_params(), options_of_stage("register")
    if paths is None or not (paths.prepared / "dataset.json").exists() or not paths.extractor.exists():
        raise UserError("the prepared images or the extractor are missing; make them with `dvc repro evaluate`")
    runtime = replace(params.runtime, device=args.device)
    rules = replace(params.promote, max_images=args.max_images or params.promote.max_images)
    measuring = Measuring(
        prepared=paths.prepared,
        extractor=paths.extractor,
        second=paths.second,
        evaluate=params.evaluate,
        runtime=runtime,
    )
    unfit = unfit_in(paths.reactions, extractor=measuring.network.description.to_json())
    candidate, champion = (_model(args, name) for name in (args.candidate, args.champion))
    facts = read_facts(paths.prepared)
    for name, model in ((args.candidate, candidate), (args.champion, champion)):
        shape = (model.spec.channels, model.spec.size)
        if shape != (facts.channels, facts.size):
            raise UserError(
                f"{name} makes images of {shape[0]} channel(s) of {shape[1]}x{shape[1]} pixels, but the prepared ones "
                f"have {facts.channels} of {facts.size}x{facts.size}; name a model of these data"
            )
        if recipe_of(model) is None:
            raise UserError(f"{name} has no recipe for drawing its images; register it with `dvc repro`")
    sample = params.sample
    n = args.images or (min(facts.train, 10_000) if sample.images == "auto" else sample.images)
    seed = sample.seed if args.seed is None else args.seed
    first = draw_block(candidate, n, seed, 0, runtime)
    contest = PairedContest(candidate, champion, first_block=first, seed=seed, measuring=measuring)
    decision = decide(contest.candidate_record(), rules, contest, has_champion=True, unfit=unfit)
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
