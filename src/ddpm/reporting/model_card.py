"""The model card of a version, in the form of Hugging Face: a YAML header, then what a user must know, in Markdown."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from ddpm.measuring.metric_catalogue import JUDGED
from ddpm.promotion.advice import name_option
from ddpm.promotion.registry import Version
from ddpm.reporting import measurements, origins
from ddpm.reporting.markdown import bullets, code, escaped, linked_image, table
from ddpm.reporting.origins import kind_of_model

FILE = "README.md"
USE = (
    "To generate images like those of the training data, and to restore, edit and interpolate such images: for "
    "experiments, teaching and as additional training data. It is not made to generate images of people, documents or "
    "evidence, and its images must not be passed off as real ones."
)
LIMITS = (
    "The model reproduces the distribution of its training data, with their gaps and their biases.",
    "A share of copies of zero does not prove that an image is original: larger shifts, other crops, rotations, "
    "changed colours and mixtures of images are not detected.",
    "The metrics compare with others only if they were measured by the same protocol, which is named above.",
    "FID by an extractor that was trained on these data does not compare with FID by Inception in papers.",
)


def of_version(version: Version, *, picture: str | None = None) -> str:
    """Return the card of a registered version. Raises UserError if its documents are lost."""
    return card(
        f"{version.name} version {version.number}",
        version.records(),
        version.origin(),
        picture=picture,
        version=version,
    )


def for_diffusers(title: str, version: Version | None, *, lineage: Mapping[str, Any], shape: Mapping[str, Any]) -> str:
    """Return the card of a model that was exported for diffusers, with the metrics of its version if it has one.

    Raises UserError if the version's documents are lost.
    """
    records, origin = ([], {}) if version is None else (version.records(), version.origin())
    usage = (
        "```python\nfrom diffusers import DDPMPipeline\n\n"
        'pipeline = DDPMPipeline.from_pretrained("FOLDER")\nimages = pipeline(batch_size=4).images\n```\n\n'
        "The metrics below were measured with the sampling settings below; diffusers' own sampler needs more steps and "
        "gives other images. A class other than none, and guidance, need a loop of your own."
    )
    return card(title, records, {**lineage, **shape, **origin}, version=version, library="diffusers", usage=usage)


def card(
    title: str,
    records: Sequence[Mapping[str, Any]],
    origin: Mapping[str, Any],
    *,
    picture: str | None = None,
    version: Version | None = None,
    library: str = "ddpm-factory",
    usage: str | None = None,
) -> str:
    """Return a model card. `records` are metrics by one or more protocols, and may be empty if none are known.

    `picture` is the path of a grid of samples beside the card; `usage` is Markdown that replaces the commands of ddpm.
    """
    facts = origin.get("facts") or {}
    parts = [
        f"---\n{_yaml(_header(title, records, origin, library))}---",
        f"# {escaped(title)}",
        _summary(origin),
        linked_image(f"Samples of {title}", picture) if picture else "",
        f"## Intended use\n\n{USE}",
        "## How to use it\n\n" + (usage or _usage(version, origin)),
        "## Data\n\n" + (table(origins.data_table(facts)) if facts else _unknown(origin)),
        "## Metrics\n\n" + (_metrics(records) or "No metrics of this model are known."),
        _section("Sampling", origins.sampling_table(_drawing(records))) if _drawing(records) else "",
        _section("Training", origins.lineage_table(origin, run_id=version.run_id if version else None)),
        f"## Limits\n\n{bullets(LIMITS)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(
    title: str, records: Sequence[Mapping[str, Any]], origin: Mapping[str, Any], library: str
) -> dict[str, Any]:
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted  # "no" is a name and not a Boolean

    data = Quoted(origin.get("data", "unknown"))
    header: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "unconditional-image-generation",
        "tags": [str(origin.get("params", {}).get("method", "diffusion")), "ddpm"],
    }
    results = [
        {
            "task": {"type": "unconditional-image-generation"},
            "dataset": {"type": data, "name": data, "revision": Quoted(origin.get("data_hash", "unknown"))},
            "metrics": [
                {"type": metric.name, "name": metric.label, "value": record[metric.name]}
                for metric in JUDGED
                if record.get(metric.name) is not None
            ],
        }
        for record in records[:1]
    ]
    return header | ({"model-index": [{"name": Quoted(title), "results": results}]} if results else {})


def _yaml(values: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    written = io.StringIO()
    writer = YAML()
    writer.width = 100_000
    writer.dump(values, written)
    return written.getvalue()


def _summary(origin: Mapping[str, Any]) -> str:
    kind = f"A {kind_of_model(origin.get('params', {}))}"
    if "size" in origin:
        kind += f" of images of {origin['size']}x{origin['size']} pixels and {origin.get('channels', 1)} channel(s)"
    data = f", trained on {escaped(origin['data'])}" if "data" in origin else ""
    return f"{kind}{data}."


def _usage(version: Version | None, origin: Mapping[str, Any]) -> str:
    chosen = (
        "--model model.safetensors" if version is None else f"--version {version.number}{name_option(version.name)}"
    )
    task, *_ = origin.get("params", {}).get("image", {}).get("degradations", [None])
    draw = f"ddpm sample {chosen} --number 16 --out samples.png"
    if task == "inpaint":
        draw = f"ddpm inpaint {chosen} --image picture.png --mask mask.png --out whole.png"
    elif task is not None:
        noise = f" --noise {origin['params']['image']['noise'][1]:g}" if task == "denoise" else ""
        draw = f"ddpm restore {chosen} --task {task}{noise} --image picture.png --out restored.png"
    if version is None:
        return code(draw)
    return "\n".join(f"- {code(command)}" for command in (draw, f"ddpm serve {chosen}"))


def _metrics(records: Sequence[Mapping[str, Any]]) -> str:
    floor = "*floor*: as many real training images, measured the same way."
    return "\n\n".join(
        f"{escaped(measurements.protocol_sentence(record['protocol']))}; {floor}"
        f"{' *' + measurements.RECONSTRUCTED.replace(':', '*:', 1) + '.' if 'reconstructed' in record else ''}\n\n"
        f"{table(measurements.metrics_table(record))}"
        for record in records
    )


def _section(title: str, content: origins.Table) -> str:
    return f"## {title}\n\n{table(content)}" if content.rows else ""


def _drawing(records: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return records[0]["protocol"].get("drawing", {}) if records else {}


def _unknown(origin: Mapping[str, Any]) -> str:
    return "The data are unknown." if "data" not in origin else f"{escaped(origin['data'])}; no more is known."
