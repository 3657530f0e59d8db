"""The sections of a run's description: what was tried, samples and links; metrics and decision are in other files."""

from collections.abc import Mapping
from urllib.parse import quote

from ddpm.promotion.registry import Version
from ddpm.reporting.markdown import Table, escaped, linked_image, table
from ddpm.reporting.run_names import differences


def tried(params: Mapping[str, str], champion: tuple[Version, Mapping[str, str]] | None) -> str:
    """Return a table of the settings that differ from the champion's, or a sentence if none do or none is there.

    `champion` is the version, and the parameters of its run.
    """
    if champion is None:
        return "There was no champion when this training began, so its settings were compared with none."
    number = escaped(champion[0].number)
    rows = [(key, *values) for key, values in differences(params, champion[1]).items()]
    if not rows:
        return f"No setting differs from those of the champion at that time, version {number}."
    return f"Differs from the champion at that time, version {number}, in:\n\n" + table(
        Table(("setting", "champion", "this run"), rows)
    )


def samples(run_id: str) -> str:
    """Return the picture of the samples, which MLflow's server reads from the run's artifacts."""
    return linked_image("samples", artifact_address(run_id, "samples/samples.png"))


def links(version: Version, experiment_id: str, run_id: str) -> str:
    """Return links within MLflow's page to the registered version and to what is among the run's artifacts."""
    name, number = quote(version.name, safe=""), quote(version.number, safe="")
    artifacts = f"#/experiments/{quote(experiment_id)}/runs/{quote(run_id)}/artifacts"
    return "\n".join(
        [
            f"- [Version {escaped(number)} of {escaped(version.name)}](#/models/{name}/versions/{number})",
            f"- [Artifacts]({artifacts}): samples, the reverse process as an animation, nearest neighbours, metrics "
            "with their protocol, Data Docs",
        ]
    )


def artifact_address(run_id: str, path: str) -> str:
    """Return the address of an artifact, relative to MLflow's page."""
    return f"get-artifact?path={quote(path, safe='')}&run_uuid={quote(run_id, safe='')}"
