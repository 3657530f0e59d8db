"""What a command needs to measure two models as stage `register` does: data, extractors, settings of this folder."""

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.measuring.contest import Measuring, PairedContest
    from ddpm.model_file import Model
    from ddpm.params import Params


@dataclass(frozen=True)
class Grounds:
    """The settings and files of the working folder by which models are compared."""

    params: "Params"
    measuring: "Measuring"
    images: int
    """Images of each model at the first look."""
    unfit: dict[str, str]
    """As `promotion.figures_beside.unfit_in` returns it."""
    facts: Any
    """The facts of the prepared images (`data.reading.dataset.Facts`)."""

    def require_comparable(self, model: "Model", called: str) -> None:
        """Raise UserError unless the model makes images like the prepared ones, and has a recipe for drawing them."""
        from ddpm.generation.recipe import recipe_of

        shape = (model.spec.channels, model.spec.size)
        if shape != (self.facts.channels, self.facts.size):
            raise UserError(
                f"{called} makes images of {shape[0]} channel(s) of {shape[1]}x{shape[1]} pixels, but the prepared "
                f"ones have {self.facts.channels} of {self.facts.size}x{self.facts.size}; name a model of these data"
            )
        if recipe_of(model) is None:
            raise UserError(f"{called} has no recipe for drawing its images; register it with `dvc repro`")

    def likelihood_of(self, contest: "PairedContest") -> dict[str, float]:
        """Return the candidate's bits per dimension by metric name; empty if no rule of the gate needs them."""
        from ddpm.promotion.settings import FIGURES

        is_asked = any(FIGURES[rule.figure].group == "likelihood" for rule in self.params.promote.rules)
        return contest.candidate_likelihood() if is_asked else {}


def grounds(args: argparse.Namespace) -> Grounds:
    """Return them for this device. Raise UserError if the prepared images or the extractor are missing."""
    from ddpm.data.reading.dataset import read_facts
    from ddpm.measuring.contest import Measuring
    from ddpm.params import load as load_params
    from ddpm.pipeline.dvc_yaml import options_of_stage
    from ddpm.promotion.figures_beside import unfit_in

    params, paths = load_params(), options_of_stage("register")
    if paths is None or not (paths.prepared / "dataset.json").exists() or not paths.extractor.exists():
        raise UserError("the prepared images or the extractor are missing; make them with `dvc repro evaluate`")
    facts, sample = read_facts(paths.prepared), params.sample
    measuring = Measuring(
        prepared=paths.prepared,
        extractor=paths.extractor,
        second=paths.second,
        evaluate=params.evaluate,
        runtime=replace(params.runtime, device=args.device),
    )
    images = min(facts.train, 10_000) if sample.images == "auto" else sample.images
    return Grounds(
        params, measuring, images, unfit_in(paths.reactions, extractor=measuring.network.description.to_json()), facts
    )
