"""reports/report.html: one page that tells a person who was not there what the last run made, and what was decided.

It is one file without outside references, for a phone, dark screens and paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm.measuring.metric_catalogue import JUDGED, find
from ddpm.promotion.advice import approve_command, name_option, promote_command, rollback_command
from ddpm.promotion.registry import Version
from ddpm.promotion.settings import Promote, in_words
from ddpm.rendering import charts
from ddpm.rendering.page import render
from ddpm.rendering.pictures import Picture, strip
from ddpm.reporting import decisions, origins, reaction_levels
from ddpm.reporting.decisions import rules_table
from ddpm.reporting.measurements import (
    RECONSTRUCTED,
    disagreement,
    left_out_sentence,
    metrics_table,
    protocol_sentence,
    with_interval,
)
from ddpm.reporting.reaction_levels import caveat, levels_table
from ddpm.tracker import flat

if TYPE_CHECKING:
    from markupsafe import Markup

CLASSES, PER_CLASS, WITHOUT_CLASSES = 30, 10, 60
"""Classes that are shown, images for each of them, and images of data without classes."""


@dataclass(frozen=True)
class Images:
    """Images of one class, or of all if there are no classes; uint8 [n,C,H,W], empty where there are none."""

    name: str
    real: np.ndarray
    generated: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Run:
    """What MLflow knows of the training's run."""

    run_id: str
    began: datetime
    ended: datetime | None
    images_per_second: float | None
    sampling_images_per_second: float | None
    watts: float | None
    """Mean power of all GPUs in the training; None if it was not measured."""
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class LastRun:
    """What the last run of the pipeline made."""

    facts: Mapping[str, Any]
    """As in dataset.json."""
    validation: Mapping[str, Any]
    """As in reports/validation.json."""
    data_docs: str
    """Path of the Data Docs, which is named."""
    images: Sequence[Images]
    measured: Mapping[str, Any]
    """As in reports/metrics.json."""
    curves: Sequence[Mapping[str, float]]
    """Rows of reports/curves.csv without empty cells."""
    lineage: Mapping[str, Any]
    """As in the model file."""
    promote: Promote
    """The section of params.yaml."""
    neighbours: Picture | None
    damaged: Picture | None
    """Damaged real images with the metrics of each step."""
    reactions: Mapping[str, Any]
    """As in reports/reactions.json; empty if it is missing."""
    run: Run | None
    version: Version | None
    against: Version | None
    """The champion when the gate decided."""
    champion: Version | None
    """The present champion."""
    environment: Mapping[str, str]
    """Versions by name of a package."""
    autoencoder: Mapping[str, Any] = field(default_factory=dict)
    """As in reports/autoencoder.json; empty if it is missing."""
    reconstructions: Picture | None = None
    """Held-out images with their reconstructions; None if pixels diffuse."""
    outdated: str = ""
    """A sentence on what has changed since this run; empty if nothing has."""


def report_page(run: LastRun) -> str:
    """Return the page as HTML."""
    version = run.version
    against = run.against.record_like(run.measured) if run.against and run.against != version else None
    rules = decisions.rules_of(version) if version else []
    champion_title = f"champion then, version {run.against.number}" if run.against else "champion"
    lineage = dict(run.lineage) | ({"git_commit": commit} if (commit := _commit(run.run)) else {})
    page = render(
        Path(__file__).parent / "report.html",
        run=run,
        headline=f"version {version.number} {decisions.verdict(version)}" if version else "not registered",
        promoted=version is not None and version.tags.get("decision") == "promoted",
        summary=_summary(run.measured, against),
        asked=_asked(run),
        captioned=run.lineage.get("params", {}).get("condition") == "text",
        images=[(each.name, _strip(each.generated), _strip(each.real)) for each in list(run.images)[:CLASSES]],
        more_classes=max(0, len(run.facts["classes"]) - CLASSES),
        failed=[each for each in run.validation["details"] if not each["passed"]],
        metrics=metrics_table(run.measured, against, champion_title=champion_title),
        champion_measured_otherwise=run.against is not None and run.against != version and against is None,
        left_out=left_out_sentence(run.measured),
        autoencoder=_autoencoder(run.autoencoder),
        reconstructed=f"{RECONSTRUCTED.capitalize()}." if "reconstructed" in run.measured else "",
        protocol=protocol_sentence(run.measured.get("protocol", {})),
        meanings=[metric for metric in JUDGED if run.measured.get(metric.name) is not None],
        levels=levels_table(run.measured, run.reactions),
        levels_caveat=caveat(run.measured, run.reactions) if run.reactions else "",
        unfit=reaction_levels.reasons(run.reactions),
        loss=_loss(run.curves),
        loss_terms=_loss_terms(run.curves, run.lineage.get("params", {})),
        rules=rules_table(rules) if rules else None,
        reasons=decisions.remarks(version, rules) if version else [],
        decided=_decided(version),
        next_steps=_next_steps(run),
        costs=_costs(run),
        tables=[
            origins.lineage_table(lineage, run_id=run.run.run_id if run.run else None),
            origins.data_table(run.facts),
            origins.sampling_table(run.measured.get("protocol", {}).get("drawing", {})),
        ],
        dirty=run.run is not None and run.run.tags.get("git.dirty") == "true",
        params=[(name, origins.as_words(value)) for name, value in flat(**run.lineage.get("params", {})).items()],
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    return str(page)


def _autoencoder(figures: Mapping[str, Any]) -> str:
    """Return the figures of the autoencoder in a sentence; empty if pixels diffuse."""
    if figures.get("codec") != "autoencoder":
        return ""
    fid = figures["reconstruction_fid"]
    measured = "" if fid is None else f"FID {fid:.3g}, "
    return (
        f"Of {figures['n']:,} held-out images, against themselves: {measured}PSNR {figures['psnr']:.1f} dB, SSIM "
        f"{figures['ssim']:.3f}. KL divergence of the latents of an image from N(0, I): {figures['kl']:,.0f} nats. "
        f"Standardised latents have mean {figures['latents']['mean']:.2f} and standard deviation "
        f"{figures['latents']['std']:.2f}."
    )


def _summary(measured: Mapping[str, Any], champion: Mapping[str, Any] | None) -> str:
    fid = find("fid")
    assert fid is not None
    sentence = f"{fid.label} {with_interval(measured, fid)} ({fid.direction}); "
    sentence += f"real images, measured the same way, have {with_interval(measured.get('floor') or {}, fid)}"
    if "reconstructed" in measured:
        sentence += f", and after the autoencoder {with_interval(measured['reconstructed'], fid)}"
    if champion is None:
        return sentence + "."
    sentence += f", and the champion then had {with_interval(champion, fid)}."
    return " ".join(filter(None, [sentence, disagreement(measured, champion)]))


def _strip(images: np.ndarray) -> Picture | None:
    return strip(images, columns=10) if len(images) else None


def _commit(run: Run | None) -> str | None:
    return run.tags.get("mlflow.source.git.commit") if run else None


def _asked(run: LastRun) -> list[str]:
    """Return what the settings ask for, in sentences."""
    facts, params, rules = run.facts, run.lineage.get("params", {}), run.promote
    train, drawing = params.get("train", {}), run.measured.get("protocol", {}).get("drawing", {})
    kind = "grey" if facts["channels"] == 1 else "colour"
    classes = f" in {len(facts['classes']):,} classes" if facts["classes"] else ""
    by_condition = {"text": " by their captions", "image": " from degraded ones", "none": ""}
    classes = by_condition.get(params.get("condition", "label"), classes)
    latents = " of the latents" if run.lineage.get("autoencoder") else ""
    sentences = [
        f"Train a {origins.kind_of_model(params)}{latents} of {kind} images of {facts['size']} x {facts['size']} "
        f"pixels{classes} on the {facts['train']:,} training images of {facts['name']}, by showing it "
        f"{train.get('images', 0):,} images" + _process(params)
    ]
    if start := run.lineage.get("start"):
        sentences.append(f"The training started from {start.get('name', 'another model')}.")
    protocol = run.measured.get("protocol", {})
    if drawing and "n" in protocol and "reference_n" in protocol:
        by = f"with the sampler {drawing.get('sampler')} in {drawing.get('steps')} steps"
        if drawing.get("sampler") == "direct":
            by = "in one network evaluation each"
        sentences.append(
            f"Generate {protocol['n']:,} images {by}, and measure them against {protocol['reference_n']:,} images that "
            "the training never saw."
        )
    sentences.append(
        f"Make it the champion of {rules.name} if all rules hold: {in_words(rules.rules)}"
        + ("; a person has the last word." if rules.approval == "ask" else ".")
    )
    return sentences


def _loss(curves: Sequence[Mapping[str, float]]) -> "Markup":
    return _chart(curves, {"loss": "loss"}, title="Training loss")


def _loss_terms(curves: Sequence[Mapping[str, float]], params: Mapping[str, Any]) -> tuple["Markup", str]:
    """Return a chart of the terms of the loss, or of the loss by noise level, and its caption."""
    if params.get("method") == "vae":
        terms = {name: name for name in ("reconstruction", "kl")}
        caption = "Terms of the loss, in nats per dimension: reconstruction error (shown where above 0) and KL."
        return _chart(curves, terms, title="Terms of the loss"), caption
    if params.get("method") == "gan":
        chart = _chart(curves, {name: name for name in ("loss_D", "loss_G")}, title="Losses of both networks")
        return chart, "Losses of the discriminator and of the generator."
    names = ("least noise", "second quarter", "third quarter", "most noise")
    quarters = {name: f"loss_noise_quarter_{k}" for k, name in enumerate(names, start=1)}
    chart = _chart(curves, quarters, title="Training loss by noise level, in quarters of the noise levels")
    return chart, "The same by noise level, in quarters from the least to the most noise."


def _chart(curves: Sequence[Mapping[str, float]], columns: Mapping[str, str], *, title: str) -> "Markup":
    series = {
        name: [(row["images_seen"], row[key]) for row in curves if row.get(key, 0.0) > 0.0]
        for name, key in columns.items()
    }
    return charts.lines(series, title=title, x_label="images seen", y_label="loss", log_y=True)


def _process(params: Mapping[str, Any]) -> str:
    """Return the end of a sentence: the process of a diffusion model."""
    if params.get("method", "diffusion") != "diffusion":
        return "."
    schedule, target = params.get("schedule", {}), params.get("objective", {})
    return (
        f" (noise schedule {schedule.get('name', 'unknown')}, the network predicts {target.get('target', 'unknown')})."
    )


def _decided(version: Version | None) -> str:
    if version is None or not version.tags.get("decided_by"):
        return ""
    when = version.tags.get("decided_at", "")[:16].replace("T", " at ")
    return f"Decided by {version.tags['decided_by']}" + (f" on {when} UTC." if when else ".")


def _next_steps(run: LastRun) -> list[tuple[str, str]]:
    """Return (what a person may want to do, the command)."""
    version, champion = run.version, run.champion
    if version is None:
        return [("register the model", "dvc repro -f -s register")]
    name = name_option(version.name)
    steps = [
        ("see images of this version", f"ddpm sample{name} --version {version.number} --number 16 --out images.png")
    ]
    if version.tags.get("decision") == "pending":
        steps.append(("approve it", approve_command(version.name, version.number)))
        steps.append(("reject it", approve_command(version.name, version.number, reject=True)))
    elif champion is None or champion.number != version.number:
        steps.append(("make it the champion all the same", promote_command(version.name, version.number)))
    elif run.against is not None:
        steps.append(("return to the champion before it", rollback_command(version.name)))
    return steps


def _costs(run: LastRun) -> list[tuple[str, str]]:
    if run.run is None:
        return [("time and energy", "not known: MLflow does not have the training's run")]
    rows, known = [], run.run
    machine = run.lineage.get("machine")
    if known.ended is not None:
        seconds = (known.ended - known.began).total_seconds()
        rows.append(
            ("training", f"{_duration(seconds)} from its beginning ({known.began:%Y-%m-%d %H:%M} UTC) to its end")
        )
        if known.watts is not None:
            rows.append(
                ("energy", f"about {known.watts * seconds / 3600:,.3g} Wh: GPUs at {known.watts:,.0f} W on average")
            )
    if known.watts is None:
        rows.append(("energy", "not known: only the power of NVIDIA GPUs is measured"))
    for title, speed in (("training", known.images_per_second), ("sampling", known.sampling_images_per_second)):
        if speed is not None:
            rows.append((f"speed of {title}", f"{speed:,.3g} images per second"))
    return rows + ([("machine", origins.as_words(machine))] if machine else [])


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {round(seconds) % 60} s" if minutes else f"{round(seconds)} s"
