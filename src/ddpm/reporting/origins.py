"""Where a model comes from and how its images are sampled: tables of settings that matter."""

from collections.abc import Mapping
from typing import Any

from ddpm.reporting.markdown import Table

_SAMPLER_SETTINGS = ("ddpm", "ddim", "heun", "unipc", "langevin", "predictor_corrector")
_GUIDANCE = ("guide", "guidance_interval", "guidance_rescale")
_HASH_CHARACTERS = 12


_KINDS = {
    "diffusion": "diffusion model",
    "vae": "variational autoencoder (VAE)",
    "gan": "generative adversarial network (GAN)",
}


def kind_of_model(params: Mapping[str, Any]) -> str:
    """Return the kind of model that these parameters of a lineage specify, in words."""
    return _KINDS.get(str(params.get("method")), _KINDS["diffusion"])


def sampling_table(drawing: Mapping[str, Any]) -> Table:
    """Return the settings of sampling that have an effect with this sampler, as in a record's `protocol.drawing`."""
    if drawing.get("sampler") == "direct":
        return Table(("sampling", "value"), [("network evaluations per image", "1")])
    guided = drawing.get("guidance", 1.0) != 1.0
    unread = {name for name in _SAMPLER_SETTINGS if name != drawing.get("sampler")}
    unread |= set() if guided else set(_GUIDANCE)
    unread |= set() if drawing.get("picture_noise") else {"picture_noise"}
    unread |= set() if drawing.get("time_grid") == "karras" else {"karras"}
    rows = [(key, as_words(value)) for key, value in drawing.items() if key not in unread and value is not None]
    return Table(("sampling", "value"), rows)


def data_table(facts: Mapping[str, Any]) -> Table:
    """Return the facts of the data set, as in data/prepared/dataset.json."""
    rows = [("data", str(facts["name"])), ("version (sha256 of all pixels and labels)", short(facts["content_hash"]))]
    rows.append(("images", f"{facts['train']:,} for training, {facts['test']:,} held out"))
    if rejected := facts.get("rejected"):
        rows.append(("rejected files", ", ".join(f"{n:,} {reason}" for reason, n in rejected.items())))
    kind = {1: "grey", 3: "colour"}.get(facts["channels"], f"{facts['channels']} channels")
    rows.append(("shape", f"{facts['size']}x{facts['size']} pixels, {kind}"))
    if classes := facts.get("classes"):
        rows.append((f"classes ({len(classes)})", ", ".join(map(str, classes))))
    return Table(("data", "value"), rows)


def lineage_table(origin: Mapping[str, Any], *, run_id: str | None = None) -> Table:
    """Return what made the model: data, code, training, the model that it started from, machine and MLflow run.

    `origin` is the lineage in a model file, and may have the commit as `git_commit`.
    """
    params = origin.get("params", {})
    train, objective = params.get("train", {}), params.get("objective", {})
    rows: list[tuple[str, str]] = []
    if "data" in origin:
        rows.append(("data", f"{origin['data']}, version {short(origin.get('data_hash', 'unknown'))}"))
    if "images" in train:
        schedule = params.get("schedule", {}).get("name", "unknown")
        noisy = params.get("method", "diffusion") == "diffusion"
        process = f", schedule {schedule}, target {objective.get('target', 'unknown')}" if noisy else ""
        kind = "" if noisy else f"{kind_of_model(params)}, "
        rows.append(("training", f"{kind}{train['images']:,} images{process}"))
    if start := origin.get("start"):
        taken = f", {start['taken_over']} of {start['tensors']} tensors" if "tensors" in start else ""
        rows.append(("started from", f"{start.get('name', 'unknown')}{taken}"))
    if "code_hash" in origin:
        rows.append(
            (
                "code that trained",
                f"{short(origin['code_hash'])}, commit {short(origin.get('git_commit') or 'unknown')}",
            )
        )
    if machine := origin.get("machine"):
        rows.append(("machine", as_words(machine)))
    if run_id is not None:
        rows.append(("MLflow run", run_id))
    return Table(("origin", "value"), rows)


def short(digest: str) -> str:
    """Return the beginning of a hash, which is enough to compare."""
    return str(digest)[:_HASH_CHARACTERS]


def as_words(value: object) -> str:
    """Return a setting as text: a list with commas, a mapping as `key value`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {as_words(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_words(each) for each in value)}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
