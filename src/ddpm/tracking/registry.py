"""The registered model: its versions, who is champion, and the way back.

All is in MLflow. A version's tags hold its figures, its lineage and what was decided about it; how the champions
followed each other stands in succession.py. While a version waits for a person's yes it has the alias `challenger`.
Every function that changes something can be called again after it failed, and then finishes what it had begun.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ddpm.errors import UserError
from ddpm.measuring.record import recipe_of
from ddpm.promotion import gate
from ddpm.promotion.settings import Promote
from ddpm.sampling.settings import Recipe
from ddpm.tracking import succession
from ddpm.tracking.registry_lock import alone
from ddpm.tracking.store import as_default_store, connect, mlflow_errors, shown_uri, tracking_uri, user
from ddpm.tracking.succession import CHALLENGER, CHAMPION, Move

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from ddpm.model_file import Model
    from ddpm.tracking.run_tracker import MlflowTracker

Verdict = Literal["promoted", "kept", "pending", "champion"]
"""The candidate took over; the champion stays; a person is asked; the candidate is the champion already."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    number: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    run_id: str | None
    created: datetime

    def record(self, key: Literal["record", "record_again"] = "record") -> dict[str, Any] | None:
        """Its figures with their protocol, as in reports/metrics.json; `record_again` by a later protocol."""
        return json.loads(self.tags[key]) if key in self.tags else None

    def recipe(self) -> Recipe | None:
        """How it was drawn when it was measured; None where nothing says so."""
        return recipe_of((self.record() or {}).get("protocol", {}))


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate."""

    verdict: Verdict
    version: Version
    champion: Version | None
    """Before the decision."""
    reasons: tuple[str, ...]
    champion_record: Mapping[str, Any] | None
    """The champion's figures by the candidate's protocol, where they were compared."""


def versions(name: str) -> list[Version]:
    """Newest first; empty where nothing is registered under the name."""
    client = connect()
    with mlflow_errors():
        aliases = succession.aliases(client, name)
        found = [_version(v, aliases) for v in client.search_model_versions(f"name = '{name}'")]
    return sorted(found, key=lambda version: int(version.number), reverse=True)


def version(name: str, number: str) -> Version:
    """Raises UserError, naming the versions there are, for one there is not."""
    known = versions(name)
    for found in known:
        if found.number == number:
            return found
    there = ", ".join(v.number for v in reversed(known)) or "none"
    raise UserError(f"{name} has no version {number} at {shown_uri()}; there are: {there}")


def champion(name: str) -> Version | None:
    """The version with the alias `champion`."""
    return next((found for found in versions(name) if CHAMPION in found.aliases), None)


def register(
    *, name: str, sha256: str, model_id: str, run_id: str, record: Mapping[str, Any], tags: Mapping[str, str]
) -> Version:
    """The version of this model file, by its sha256: found, or made. Its figures and tags are brought up to date."""
    client = connect()
    with alone(), mlflow_errors():
        _ensure_model(client, name)
        there = client.search_model_versions(f"name = '{name}' and tags.model_sha256 = '{sha256}'")
        if there:
            number = str(there[0].version)
        else:
            with as_default_store():
                made = client.create_model_version(
                    name,
                    f"models:/{model_id}",
                    run_id=run_id,
                    model_id=model_id,
                    tags={"model_sha256": sha256, "model_id": model_id},
                )
            number = str(made.version)
        figures = _shown(record) | {f"floor.{key}": value for key, value in _shown(record["floor"]).items()}
        succession.tag(client, name, number, {**tags, **figures, "record": json.dumps(record)})
    return version(name, number)


def origin(model: "Model", run: "MlflowTracker") -> dict[str, str]:
    """Where a model comes from, as tags of its version: data, parameters, code, and the shape of its images."""
    with mlflow_errors():
        commit = run.client.get_run(run.id).data.tags.get("mlflow.source.git.commit", "none")
    tags = {key: model.spec[key] for key in ("channels", "size")} | {"classes": len(model.spec["classes"])}
    lineage = {k: v if isinstance(v, str) else json.dumps(v) for k, v in model.lineage.items()}
    return lineage | {key: str(value) for key, value in tags.items()} | {"git.commit": commit}


def contents(weights_sha256: str, recipe: Recipe) -> dict[str, str]:
    """What a version is, as tags of it: the file of its weights, and how they are drawn from."""
    return {"weights_sha256": weights_sha256} | {f"sample.{key}": str(value) for key, value in recipe.told().items()}


def holding(known: list[Version], weights_sha256: str, protocol: Mapping[str, Any]) -> Version | None:
    """Of these versions, newest first, the one of these weights that is drawn as the protocol says."""
    recipe = recipe_of(protocol)
    for found in known:
        # A version from before versions carried a recipe is the file of its weights.
        weights = found.tags.get("weights_sha256", found.tags.get("model_sha256"))
        if weights == weights_sha256 and found.recipe() == recipe:
            return found
    return None


def summary(outcome: Outcome, *, metric: str) -> str:
    """What was decided, the figures it was decided by, and why, a line each."""
    found, record = outcome.version, outcome.version.record() or {}
    said = {"promoted": "is the champion now", "kept": "is not promoted", "pending": "waits for a person"}
    lines = [f"{found.name} version {found.number} {said.get(outcome.verdict, 'is the champion already')}"]
    if outcome.champion is not None and outcome.champion.number != found.number:
        lines[0] += f" (champion before: version {outcome.champion.number})"
    figures = {"candidate": record, "champion": outcome.champion_record, "floor": record.get("floor")}
    measured = [f"{who} {_shown(of)[metric]}" for who, of in figures.items() if of and metric in of]
    return "\n".join([*lines, f"  {metric}: {', '.join(measured)}", *(f"  {reason}" for reason in outcome.reasons)])


def download(found: Version, folder: Path) -> Path:
    """The version's model file, brought into `folder`. Raises UserError where the store has lost or changed it."""
    import mlflow.artifacts

    client = connect()
    with mlflow_errors():
        location = client.get_model_version_download_uri(found.name, found.number)
        if urlsplit(location).scheme not in ("", "file"):
            here = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location}/artifacts", dst_path=str(folder), tracking_uri=tracking_uri()
            )
        else:
            from mlflow.utils.file_utils import local_file_uri_to_path

            here = f"{local_file_uri_to_path(location)}/artifacts"
    files = sorted(Path(here).glob("*.safetensors"))
    if len(files) != 1:
        raise UserError(
            f"version {found.number} of {found.name} has {len(files)} model files in {here}, expected one; "
            "restore the artifacts, or promote another version with `ddpm promote`"
        )
    with open(files[0], "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != found.tags.get("model_sha256", digest):
        raise UserError(
            f"{files[0]} is not the file that was registered as version {found.number} of {found.name} "
            f"(sha256 {digest[:12]}…, expected {found.tags['model_sha256'][:12]}…); restore it from a backup"
        )
    return files[0]


def judge(
    candidate: Version,
    *,
    rule: Promote,
    remeasure: Callable[[Path, Recipe | None], Mapping[str, Any]],
    folder: Path,
) -> Outcome:
    """Decides about a registered candidate, moves the alias or leaves it, and writes the reasons on the version.

    Where the alias was removed, the candidate is held against the last champion. One whose stored figures were measured
    otherwise is downloaded into `folder` and measured again, drawn by its own recipe, by `remeasure(model file, recipe
    of a file that carries none) -> record`. Where that is
    impossible, because it makes images of another kind or its file is lost, a person decides. A version that a person
    took down, by a rollback or in MLflow, comes back only by a person.
    """
    record = candidate.record()
    if record is None:
        raise UserError(f"version {candidate.number} of {rule.name} has no figures; register it with `dvc repro`")
    client = connect()
    with alone() as note, mlflow_errors():
        finished = succession.resume(client, rule.name, note, action="promote", version=candidate.number)
        moves = succession.history(client, rule.name)
    if finished is not None:
        return _finished(candidate, finished, record)
    known = {found.number: found for found in versions(rule.name)}
    champions = [known.get(move.version or "") for move in reversed(moves)]
    rival = next((found for found in champions if found is not None), None)
    current = rival if rival is not None and CHAMPION in rival.aliases else None
    if current is not None and current.number == candidate.number:
        reasons = ("it is the champion already: nothing to decide",)
        return Outcome("champion", candidate, current, reasons, record)
    if (move := succession.taken_down(moves).get(candidate.number)) is not None:
        return Outcome("kept", candidate, current, (_why_down(candidate, move),), None)

    def conclude(
        verdict: Literal["promoted", "kept", "pending"], *reasons: str, against: Mapping[str, Any] | None = None
    ) -> Outcome:
        asked = (_how_to_promote(candidate),) if verdict == "pending" else ()
        return _conclude(verdict, candidate, current, rival, (*absent, *reasons, *asked), against)

    absent: tuple[str, ...] = ()
    opponent: Mapping[str, Any] | None = None
    if rival is None and moves:
        return conclude("pending", "there is no champion, and of the former ones none is left to compare it with")
    if rival is not None:
        if current is None:
            absent = (f"there is no champion now; it is held against the last one, version {rival.number}",)
        if reason := _incomparable(candidate, rival):
            return conclude("pending", reason)
        opponent = _record_by_same_protocol(rival, record)
        if opponent is None:
            print(f"measuring champion {rival.number} again by the candidate's protocol", flush=True)
            try:
                opponent = remeasure(download(rival, folder), rival.recipe())
            except UserError as error:
                return conclude(
                    "pending", f"champion {rival.number} could not be measured by the same protocol ({error})"
                )
            with mlflow_errors():
                succession.tag(client, rule.name, rival.number, {"record_again": json.dumps(opponent)})
    decision = gate.decide(record, opponent, rule)
    verdict: Literal["promoted", "kept", "pending"] = "kept"
    if decision.promote:
        verdict = "pending" if rule.approval == "ask" else "promoted"
    return conclude(verdict, *decision.reasons, against=opponent)


def promote(name: str, number: str, *, reason: str, by: str | None = None) -> Move:
    """Makes this version champion because a person says so.

    Raises UserError if it is already, and if its model file is lost or cannot be read.
    """
    client = connect()
    found = version(name, number)
    with alone() as note, mlflow_errors():
        if (finished := succession.resume(client, name, note, action="promote", version=number)) is not None:
            return finished
        if succession.aliases(client, name).get(CHAMPION) == number:
            raise UserError(f"version {number} of {name} is the champion already")
        _require_model(found)
        return succession.move(client, name, note, action="promote", version=number, by=by or user(), reason=reason)


def rollback(name: str, *, reason: str, by: str | None = None) -> Move:
    """Makes the champion before this one champion again; said again, the one before that.

    A version that a person took down is passed over. `promote` of the version that went undoes it. Raises UserError
    where there is none before, and where its model file is lost or cannot be read.
    """
    client = connect()
    with alone() as note, mlflow_errors():
        if (finished := succession.resume(client, name, note, action="rollback")) is not None:
            return finished
        known = {found.number: found for found in versions(name)}
        current = succession.aliases(client, name).get(CHAMPION)
        if current is None:
            raise UserError(f"{name} has no champion at {shown_uri()}; make one with `ddpm promote VERSION`")
        before = [n for n in succession.line(succession.history(client, name)) if n in known and n != current]
        if not before:
            raise UserError(
                f"version {current} of {name} is the first champion, or those before it were taken down or deleted; "
                "there is none to go back to, so name a version with `ddpm promote VERSION`"
            )
        _require_model(known[before[-1]])
        return succession.move(
            client, name, note, action="rollback", version=before[-1], by=by or user(), reason=reason
        )


def history(name: str) -> list[Move]:
    """Every move of the alias `champion`, oldest first."""
    client = connect()
    with mlflow_errors():
        return succession.history(client, name)


def _conclude(
    verdict: Literal["promoted", "kept", "pending"],
    candidate: Version,
    current: Version | None,
    rival: Version | None,
    reasons: tuple[str, ...],
    rival_record: Mapping[str, Any] | None,
) -> Outcome:
    client, name = connect(), candidate.name
    with alone() as note, mlflow_errors():
        now = succession.aliases(client, name).get(CHAMPION)
        before = None if current is None else current.number
        if now != before:
            raise UserError(
                f"the champion of {name} changed from {before} to {now} while version {candidate.number} was judged; "
                "judge it again with `dvc repro register`"
            )
        if verdict == "promoted":
            _require_model(candidate)
            succession.move(
                client, name, note, action="promote", version=candidate.number, by=_gate(), reason="; ".join(reasons)
            )
        else:
            succession.drop_challenger(client, name, candidate.number)
            against = None if rival is None else rival.number
            tags = succession.decided(verdict, reasons, by="gate", against=against, when=succession.now())
            succession.tag(client, name, candidate.number, tags)
            if verdict == "pending":
                client.set_registered_model_alias(name, CHALLENGER, candidate.number)
            succession.tell_run(client, candidate.run_id, f"{verdict} as version {candidate.number} of {name}")
    return Outcome(verdict, version(name, candidate.number), current, reasons, rival_record)


def _finished(candidate: Version, move: Move, record: Mapping[str, Any]) -> Outcome:
    """Of a promotion that was cut off the last time it was judged."""
    former = None if move.previous is None else version(candidate.name, move.previous)
    against = None if former is None else _record_by_same_protocol(former, record)
    return Outcome("promoted", version(candidate.name, candidate.number), former, (move.reason,), against)


def _gate() -> str:
    return f"gate, run by {user()}"


def _require_model(found: Version) -> None:
    """Raises UserError unless the version's file is there, is the one that was registered, and loads."""
    from ddpm import model_file

    with tempfile.TemporaryDirectory() as folder:
        file = download(found, Path(folder))
        try:
            model_file.load(file)
        except UserError as error:
            raise UserError(f"version {found.number} of {found.name} cannot be champion: {error}") from None


def _why_down(candidate: Version, move: Move) -> str:
    what = "it was rolled back" if move.action == "rollback" else "a person took it down in MLflow"
    return f"{what} ({move.reason}); `ddpm promote {candidate.number}` undoes that"


def _shown(figures: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: "none" if value is None else f"{value:.6g}"
        for key, value in figures.items()
        if value is None or isinstance(value, int | float)
    }


def _incomparable(candidate: Version, current: Version) -> str | None:
    """Why two models' images cannot be measured against the same reference."""
    shapes = [tuple(v.tags.get(key, "unknown") for key in ("channels", "size")) for v in (candidate, current)]
    if shapes[0] == shapes[1]:
        return None
    new, old = (f"{channels} channel(s) of {size}x{size} pixels" for channels, size in shapes)
    return (
        f"it makes images of {new} and champion {current.number} of {old}: their figures do not compare, "
        "so a person decides (or give the new kind of model its own name in promote.name)"
    )


def _record_by_same_protocol(current: Version, record: Mapping[str, Any]) -> dict[str, Any] | None:
    for stored in (current.record("record"), current.record("record_again")):
        if stored is not None and not gate.differences(record, stored):
            return stored
    return None


def _how_to_promote(candidate: Version) -> str:
    return f"it waits for `ddpm promote {candidate.number} --reason …`"


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version(found: "ModelVersion", aliases: Mapping[str, str]) -> Version:
    number = str(found.version)
    return Version(
        name=found.name,
        number=number,
        aliases=tuple(sorted(alias for alias, holder in aliases.items() if holder == number)),
        tags=found.tags,
        run_id=found.run_id,
        created=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
    )
