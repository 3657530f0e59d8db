"""The page of the served model: an HTML form for each task, with only what this model can do, and what the model is.

The page is filled in here, and page_files/page.js sends the same requests to /invocations that programs send. There is
no framework and no build step: the page loads some small files of this package and nothing else.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from ddpm.errors import UserError, on_one_line
from ddpm.generation.recipe import Recipe, neutral, recipe_of
from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.model_file import Model
from ddpm.promotion.registry import Version
from ddpm.sampling.catalogue import SAMPLERS
from ddpm.serving.fields import MAX_GUIDANCE, MAX_IMAGES
from ddpm.serving.picture_request import OF_PIXELS, STEPS, TASKS
from ddpm.serving.sample_request import MAX_FRAMES
from ddpm.serving.served_models import Served, ServedModels
from ddpm.serving.trained_tasks import what_it_can_do
from ddpm.settings import as_dict

_SCRIPT = "text/javascript; charset=utf-8"
FILES = {"page.css": "text/css; charset=utf-8", "page.js": _SCRIPT, "inputs.js": _SCRIPT}
"""The files that the page loads, with their types."""
_FOLDER = Path(__file__).with_name("page_files")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
}
_CHIPS = 12
"""Up to so many classes are buttons, more are a list."""
NUMBER = 16
"""How many pictures the page asks for at first."""
_QUICK = 500_000
"""Work, as in `answering.work`, that the page may ask for when it is opened, before anyone presses a button."""
_PART = re.compile(r"<!-- if (\w+) -->\n?(.*?)<!-- end \1 -->\n?", re.DOTALL)
_VALUE = re.compile(r"{{(\w+)}}")


@dataclass(frozen=True)
class Document:
    """An answer over HTTP."""

    kind: str
    """Its Content-Type."""
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Html(str):
    """Text that is HTML already; any other text is escaped."""


@cache
def file(name: str) -> Document:
    """Return one of FILES."""
    return Document(FILES[name], (_FOLDER / name).read_bytes())


def page(models: ServedModels) -> Document:
    """Return the page. Names, reasons and other texts of people are escaped."""
    values = _values(models)
    can = {name for name, value in values.items() if value}
    template = (_FOLDER / "page.html").read_text(encoding="utf-8")
    return Document("text/html; charset=utf-8", filled(template, can, values).encode(), _PAGE_HEADERS)


def filled(template: str, can: Collection[str], values: Mapping[str, Any]) -> str:
    """Return the template without the parts `<!-- if NAME -->` whose name is not in `can`, and with these values.

    A value replaces `{{NAME}}` and is escaped unless it is Html.
    """
    while _PART.search(template):
        template = _PART.sub(lambda part: part[2] if part[1] in can else "", template)

    def value(name: re.Match[str]) -> str:
        found = values[name[1]]
        return found if isinstance(found, Html) else escape(str(found))

    return _VALUE.sub(value, template)


def facts(models: ServedModels) -> dict[str, Any]:
    """Return what is served, as plain values, for GET /model."""
    served = models.current
    spec, asked = served.answering.model.spec, served.answering.model.asked
    recipe = recipe_of(served.answering.model)
    return {
        "model": served.answering.identity,
        "champion": models.champion,
        "follows": models.follows,
        "notice": models.notice,
        "watch": None if served.watching is None else served.watching.to_json(),
        "shadow": None if models.shadow is None else models.shadow.to_json(),
        "versions": [{"version": found.number, "aliases": list(found.aliases)} for found in models.versions],
        "channels": spec.channels,
        "size": spec.size,
        "classes": list(asked.classes),
        "pictures": None if spec.image is None else as_dict(spec.image),
        "examples": None if asked.text is None else list(asked.text.examples),
        "sampler": None if recipe is None else recipe.sampler,
        "steps": None if recipe is None else recipe.steps,
    }


def samplers(model: Model) -> list[str]:
    """Return the samplers that fit the model's schedule; none for a model without noise levels."""
    if model.spec.method != "diffusion":
        return []
    return [name for name in SAMPLERS if _fits(name, model)]


def _fits(sampler: str, model: Model) -> bool:
    recipe = recipe_of(model) or neutral(sampler=sampler, steps=min(50, model.spec.schedule.T))
    try:
        replace(recipe, sampler=sampler).require_fits(model.spec.schedule, called="")
    except ValueError as error:
        return "steps" in str(error).split()[0]  # another number of steps is possible
    return True


def _values(models: ServedModels) -> dict[str, Any]:
    """Return the values of the template; an empty one removes its part."""
    served = models.current
    model, version = served.answering.model, served.version
    spec, recipe = model.spec, recipe_of(model)
    noise = spec.method == "diffusion"
    asked = model.asked
    T, classes = spec.schedule.T if noise else 1, asked.classes
    has_guide = recipe is not None and recipe.guide is not None
    can_guide = noise and model.base is None and (has_guide or (spec.is_conditioned and spec.unconditional))
    usual = recipe or neutral(sampler="ddim", steps=min(50, T))
    others = [found for found in models.versions if found.number != served.number]
    tasks = _tasks(model)
    least_noise, most_noise = (0.5, 1000.0) if spec.image is None else spec.image.noise
    factors = [k for k in range(2, min(spec.size, 8) + 1) if spec.size % k == 0]
    if spec.image is not None:
        factors = [spec.image.factor]
    if "super-resolution" not in tasks:
        factors = []
    return {
        "title": served.called,
        "name": served.name,
        "version": served.number or "",
        "status": _status(models),
        "summary": _summary(served),
        "notice": models.notice or "",
        "size": spec.size,
        "channels": spec.channels,
        "max_images": MAX_IMAGES,
        "max_guidance": f"{MAX_GUIDANCE:g}",
        "max_frames": MAX_FRAMES,
        "T": T,
        "noise": "yes" if noise else "",
        "draws": "yes" if "sample" in tasks else "",
        "inpaints": "yes" if "inpaint" in tasks else "",
        "resamples": "yes" if spec.image is None else "",
        "edits": "yes" if "edit" in tasks else "",
        "restores": "yes" if tasks & {"super-resolution", "colourise", "deblur", "denoise"} else "",
        "deblurs": "yes" if "deblur" in tasks else "",
        "denoises": "yes" if "denoise" in tasks else "",
        "least_noise": f"{least_noise:g}",
        "most_noise": f"{most_noise:g}",
        "noise_value": f"{min(40, most_noise):g}",
        "request": _request(model),
        "number": NUMBER,
        "auto": "yes" if "sample" in tasks and NUMBER * 2 * usual.steps * spec.size**2 <= _QUICK else "",
        "chips": Html(_chips(classes)) if 0 < len(classes) <= _CHIPS else "",
        "class_list": _options([("", "all, in turn"), *_named(classes)]) if len(classes) > _CHIPS else "",
        "task_classes": _options([*([("", "no class")] if asked.unconditional else []), *_named(classes)])
        if spec.classes
        else "",
        "text": "yes" if asked.text is not None else "",
        "examples": _options((each, each) for each in (asked.text.examples if asked.text is not None else ())),
        "can_guide": can_guide,
        "guidance": f"{usual.guidance:g}",
        "samplers": _options((name, name) for name in samplers(model)),
        "own_sampler": usual.sampler,
        "sampler_options": _options(_sampler_options(model, usual, recipe)),
        "steps": usual.steps,
        "steps_value": "" if recipe else usual.steps,
        "eta": f"{usual.ddim.eta:g}",
        "inpaint_steps": min(STEPS["inpaint"], T) if spec.image is None else usual.steps,
        "edit_steps": min(STEPS["edit"], T),
        "task_steps": min(25, T) if spec.image is None else usual.steps,
        "factors": _options((str(k), f"{k} times, from {spec.size // k}x{spec.size // k} pixels") for k in factors),
        "colour": "yes" if "colourise" in tasks else "",
        "max_blur": min(100, spec.size),
        "max_brush": max(1, spec.size // 2),
        "brush": max(1, spec.size // 12),
        "versions": _options([("", "nothing"), *((v.number, _called(v)) for v in others)]) if others else "",
        "metrics": Html("".join(_metric_rows(version))),
        "origin": Html("".join(_rows(_origin(served, usual, recipe)))),
    }


def _tasks(model: Model) -> set[str]:
    """Return the tasks that a request to this model can have."""
    spec = model.spec
    if spec.image is not None:
        return {*spec.image.degradations, *(["sample"] if model.base is not None else [])}
    tasks = {"sample", *(TASKS if spec.method == "diffusion" else ())}
    return tasks - ({"colourise"} if spec.channels != 3 else set()) - set(OF_PIXELS if spec.draws_latents else ())


def _request(model: Model) -> str:
    """Return the fields of a request as an example, as JSON."""
    if model.asked.image is None:
        return '{"number": 4, "seed": 1}'
    image = model.asked.image
    task = image.degradations[0]
    more = {"inpaint": ', "mask": "…"', "denoise": f', "noise": {image.noise[1]:g}'}.get(task, "")
    return f'{{"task": "{task}", "image": "a PNG file in base64"{more}}}'


def _status(models: ServedModels) -> str:
    version = models.current.version
    if version is None:
        return "a model file"
    if version.number == models.champion:
        return "champion"
    return ", ".join(version.aliases) or "not the champion"


def _summary(served: Served) -> str:
    """Return one line about the model: what it makes and how good that is."""
    spec, record = served.answering.model.spec, _record(served.version)
    kind = {1: "grey", 3: "colour"}.get(spec.channels, f"{spec.channels}-channel")
    parts = [f"{spec.size}×{spec.size} {kind} pictures"]
    asked = served.answering.model.asked
    if asked.classes:
        parts.append(f"{len(asked.classes)} classes")
    if asked.text is not None:
        parts.append("from captions")
    if spec.draws_latents:
        parts.append(f"drawn as latents of {spec.noise_size}×{spec.noise_size}")
    if spec.image is not None:
        parts.append(what_it_can_do(spec.image))
    if (fid := record.get("fid")) is not None:
        floor = (record.get("floor") or {}).get("fid")
        beside = "" if floor is None else f", real images {floor:.3g}"
        parts.append(f"FID {fid:.3g} (lower is better{beside})")
    return " · ".join(parts)


def _record(version: Version | None) -> Mapping[str, Any]:
    """Return the version's metrics; empty if it has none, or if they are lost."""
    try:
        return (version.record() if version is not None else None) or {}
    except UserError:
        return {}


def _commit(version: Version | None) -> str | None:
    try:
        return None if version is None else version.origin().get("git_commit")
    except UserError:
        return None


def _called(version: Version) -> str:
    fid = _record(version).get("fid")
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    return f"version {version.number}{aliases}" + ("" if fid is None else f", FID {fid:.3g}")


def _shown(text: str) -> str:
    """Return the text as HTML, with characters that would reverse the reading direction as escapes."""
    return escape(on_one_line(text))


def _named(classes: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield index and name of each class: a name can look like the index of another class."""
    return ((str(k), name) for k, name in enumerate(classes))


def _options(rows: Any) -> Html:
    return Html("".join(f'<option value="{escape(value)}">{_shown(text)}</option>' for value, text in rows))


def _chips(classes: Collection[str]) -> str:
    rows = [("", "all"), *_named(classes)]
    return "".join(
        f'<label class="chip"><input type="radio" name="label" value="{escape(value)}"{"" if value else " checked"}>'
        f"<span>{_shown(text)}</span></label>"
        for value, text in rows
    )


def _sampler_options(model: Model, usual: Recipe, recipe: Recipe | None) -> list[tuple[str, str]]:
    own = [("", usual.sampler)] if recipe else []
    return own + [(name, name) for name in samplers(model) if not recipe or name != usual.sampler]


def _metric_rows(version: Version | None) -> Iterator[str]:
    record = _record(version)
    floor = record.get("floor") or {}
    for metric in JUDGED:
        if (value := record.get(metric.name)) is None:
            continue
        cells = (metric.label, _rounded(value), _rounded(floor.get(metric.name)), metric.direction, metric.meaning)
        yield (
            f'<tr><th scope="row">{escape(cells[0])}</th>'
            + "".join(f"<td>{escape(c)}</td>" for c in cells[1:])
            + "</tr>"
        )


def _rounded(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "–"


def _origin(served: Served, usual: Recipe, recipe: Recipe | None) -> Iterator[tuple[str, str]]:
    """Yield the facts about the model's version, decision, data and sampling, as title and text."""
    model, tags = served.answering.model, {} if served.version is None else served.version.tags
    lineage = model.lineage
    yield "Version", served.called
    if served.version is not None:
        yield "Registered", f"{served.version.created:%Y-%m-%d %H:%M} UTC"
    if "decision" in tags:
        by, when = tags.get("decided_by", ""), tags.get("decided_at", "")[:16].replace("T", " ")
        yield "Decision", f"{tags['decision']} by {by} at {when} UTC"
        yield "Reasons", "; ".join(tags.get("reasons", "").splitlines())
    trained = lineage.get("params", {}).get("train", {}) if isinstance(lineage.get("params"), Mapping) else {}
    if isinstance(trained, Mapping) and "images" in trained:
        yield "Training", f"{trained['images']} images seen"
    if data := lineage.get("data"):
        yield "Data", str(data)
    if data_hash := lineage.get("data_hash"):
        yield "Hash of the data", str(data_hash)
    asked = model.asked
    if asked.classes:
        yield "Classes", ", ".join(asked.classes[:100]) + (", …" if len(asked.classes) > 100 else "")
    if asked.text is not None:
        yield "Examples of captions", "; ".join(asked.text.examples[:10])
    if model.base is not None:
        yield "Base of the cascade", f"{model.base.spec.size}x{model.base.spec.size} pixels, {model.base.sha256}"
    yield "Parameters", f"{sum(p.numel() for p in model.network.parameters()):,}"
    schedule = model.spec.schedule
    if model.spec.method != "diffusion":
        kind = {"vae": "variational autoencoder", "gan": "generative adversarial network"}[model.spec.method]
        yield "Method", f"{kind}, which draws in one evaluation; tasks on pictures need a diffusion model"
        recipe = None
    else:
        yield "Process", f"{schedule.name}, T = {schedule.T}; the network predicts {model.spec.objective.target}"
    if recipe:
        grid = as_dict(usual)["time_grid"]
        yield "Sampling", f"{usual.sampler}, {usual.steps} steps, {grid} time grid, guidance {usual.guidance:g}"
    if commit := _commit(served.version):
        yield "Code", str(commit)
    yield "SHA-256 of the file", model.sha256


def _rows(facts: Iterator[tuple[str, str]]) -> Iterator[str]:
    return (f"<dt>{escape(title)}</dt><dd>{_shown(text)}</dd>" for title, text in facts)
