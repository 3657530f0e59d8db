"""The command that measures what a training costs before it begins."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.data.reading.dataset import Facts
    from ddpm.model_spec import Spec
    from ddpm.networks.settings import Tokenizer
    from ddpm.params import Params


def plan(args: argparse.Namespace) -> None:
    """Print the plan of the training of params.yaml. Raises UserError where stage train would not begin it."""
    from ddpm.compute import hardware
    from ddpm.data.reading.dataset import read_facts
    from ddpm.exchange.diffusers_folder import why_not_exported
    from ddpm.params import load as load_params
    from ddpm.planning.before_training import has_begun, make_plan
    from ddpm.planning.plan import Pictures

    params = load_params()
    facts = read_facts(args.prepared) if (args.prepared / "dataset.json").exists() else None
    spec = _spec(params, facts, args.prepared)
    # Which parent a training starts from is decided when it begins.
    is_known = facts is not None and params.train.start is None
    folder = None if facts is None or not is_known else args.state / _fingerprint(params, spec, facts)
    pictures = None if facts is None else Pictures(facts.train, facts.test)
    hardware.set_determinism(params.runtime.deterministic)
    device = hardware.choose_device(params.runtime.device)
    precision = hardware.choose_precision(params.runtime.precision, device, spec.noise_size)
    if sys.stderr.isatty():
        print("measuring a few steps of the training, which takes up to a minute", file=sys.stderr, flush=True)
    found, _ = make_plan(params, spec, pictures, folder=folder, device=device, precision=precision)
    print("\n".join(found.lines()))
    if obstacle := why_not_exported(spec):
        print(f"plan: this model could not be exported to diffusers: {obstacle}")
    begun = folder is not None and has_begun(params, folder)
    if not begun and (sentence := found.refusal()):
        raise UserError(sentence)


def _spec(params: "Params", facts: "Facts | None", prepared: Path) -> "Spec":
    """Return the model of params.yaml for the prepared pictures; without them, for data.size and data.channels."""
    from ddpm.training.spec import sections_of, spec_of

    size: int | None = params.data.size
    channels: int | None = params.data.channels
    if facts is not None:
        size, channels = size or facts.size, channels or facts.channels
        if (size, channels) != (facts.size, facts.channels):
            print(
                f"{prepared} has pictures of {facts.size} pixels and {facts.channels} channels, but params.yaml asks "
                f"for {size} and {channels}; the plan is for these, and `dvc repro prepare` makes them"
            )
    if size is None or channels is None:
        raise UserError(
            f"{prepared} has no pictures; prepare them with `dvc repro prepare`, or set data.size and data.channels "
            "for an estimate without them"
        )
    sections = sections_of(params)
    if params.condition == "text" and facts is not None and facts.captions is not None:
        from ddpm.data.reading.captions import read_captions
        from ddpm.text.learned import learned

        train, held_out = (read_captions(prepared / name) for name in ("train", "test"))
        words = learned(params.text, train=train, held_out=held_out, theirs=_tokenizer_of_parent(params.train.start))
        sections |= {"text": words.settings, "tokenizer": words.tokenizer}
    return spec_of(channels=channels, size=size, classes=facts.classes if facts else (), **sections)


def _tokenizer_of_parent(start: str | None) -> "Tokenizer | None":
    """Return the tokenizer of the model file `train.start`, if it has one; that of a champion is not fetched."""
    from ddpm import model_file
    from ddpm.promotion.registry import CHAMPION

    if start == CHAMPION:
        print("plan: a champion of captions brings its tokenizer; this plan learns one from the captions instead")
    if start in (None, CHAMPION) or Path(start).is_dir():
        return None
    return model_file.load(start).spec.tokenizer


def _fingerprint(params: "Params", spec: "Spec", facts: "Facts") -> str:
    from ddpm.pipeline.dvc_yaml import code_of_stage
    from ddpm.training import checkpoint, session

    code_hash = checkpoint.code_hash(*code_of_stage("train"))
    return session.fingerprint_of(spec, params.train, data_hash=facts.content_hash, code_hash=code_hash)
