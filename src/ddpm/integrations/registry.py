"""The registered model: its versions, who is champion, how that came about, and the way back.

All is in MLflow. A version's tags hold its figures, its lineage and what was decided about it. The registered
model's tags `promotion.000001`, `promotion.000002`, … hold every move of the alias `champion`: what, who, when, why.
While a version waits for a person's yes it has the alias `challenger`.
"""

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from ddpm import config
from ddpm.errors import UserError
from ddpm.integrations.mlflow_store import (
    as_default_store,
    connect,
    default_uri,
    mlflow_errors,
    project,
    shown_uri,
    tracking_uri,
    user,
)
from ddpm.promotion import gate

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from ddpm.integrations.mlflow_store import MlflowTracker
    from ddpm.model_file import Model

CHAMPION = "champion"
CHALLENGER = "challenger"

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


@dataclass(frozen=True)
class Move:
    """One move of the alias `champion`."""

    action: Literal["promote", "rollback"]
    version: str
    previous: str | None
    by: str
    when: str
    reason: str


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
        aliases = _aliases(client, name)
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
    with _alone(), mlflow_errors():
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
        _tag(client, name, number, {**tags, **figures, "record": json.dumps(record)})
    return version(name, number)


def origin(model: "Model", run: "MlflowTracker") -> dict[str, str]:
    """Where a model comes from, as tags of its version: data, parameters, code, and the shape of its images."""
    with mlflow_errors():
        commit = run.client.get_run(run.id).data.tags.get("mlflow.source.git.commit", "none")
    tags = {key: model.spec[key] for key in ("channels", "size")} | {"classes": len(model.spec["classes"])}
    lineage = {k: v if isinstance(v, str) else json.dumps(v) for k, v in model.lineage.items()}
    return lineage | {key: str(value) for key, value in tags.items()} | {"git.commit": commit}


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
    rule: config.Promote,
    remeasure: Callable[[Path], Mapping[str, Any]],
    folder: Path,
) -> Outcome:
    """Decides about a registered candidate, moves the alias or leaves it, and writes the reasons on the version.

    A champion whose stored figures have another protocol is downloaded into `folder` and measured again by
    `remeasure(model file) -> record`. Where that is impossible, because it makes images of another kind or its file is
    lost, a person decides. A version that a person rolled back comes back only by a person.
    """
    record = candidate.record()
    if record is None:
        raise UserError(f"version {candidate.number} of {rule.name} has no figures; register it with `dvc repro`")
    current = champion(rule.name)
    if current is not None and current.number == candidate.number:
        reasons = ("it is the champion already: nothing to decide",)
        return Outcome("champion", candidate, current, reasons, record)
    if candidate.tags.get("decision") == "rolled back":
        reasons = (f"it was rolled back ({candidate.tags['reasons']}); `ddpm promote {candidate.number}` undoes that",)
        return Outcome("kept", candidate, current, reasons, None)
    opponent: Mapping[str, Any] | None = None
    if current is not None:
        if reason := _incomparable(candidate, current):
            return _conclude("pending", candidate, current, (reason, _how_to_promote(candidate)), None)
        opponent = _record_by_same_protocol(current, record)
        if opponent is None:
            print(f"measuring champion {current.number} again by the candidate's protocol", flush=True)
            try:
                opponent = remeasure(download(current, folder))
            except UserError as error:
                reason = f"champion {current.number} could not be measured by the same protocol ({error})"
                return _conclude("pending", candidate, current, (reason, _how_to_promote(candidate)), None)
            client = connect()
            with mlflow_errors():
                _tag(client, rule.name, current.number, {"record_again": json.dumps(opponent)})
    decision = gate.decide(record, opponent, rule)
    if not decision.promote:
        return _conclude("kept", candidate, current, decision.reasons, opponent)
    if rule.approval == "ask":
        return _conclude("pending", candidate, current, (*decision.reasons, _how_to_promote(candidate)), opponent)
    return _conclude("promoted", candidate, current, decision.reasons, opponent)


def promote(name: str, number: str, *, reason: str, by: str | None = None) -> Move:
    """Makes this version champion because a person says so. Raises UserError if it is already."""
    client = connect()
    found = version(name, number)
    with _alone(), mlflow_errors():
        if _aliases(client, name).get(CHAMPION) == number:
            raise UserError(f"version {number} of {name} is the champion already")
        return _promote(client, found, reason=reason, by=by or user())


def rollback(name: str, *, reason: str, by: str | None = None) -> Move:
    """Makes the champion before this one champion again; said again, the one before that.

    `promote` of the version that went undoes it. Raises UserError where there is none before.
    """
    client = connect()
    with _alone(), mlflow_errors():
        there = {found.number for found in versions(name)}
        current = _aliases(client, name).get(CHAMPION)
        if current is None:
            raise UserError(f"{name} has no champion at {shown_uri()}; make one with `ddpm promote VERSION`")
        line = [number for number in _succession(history(name), current) if number in there]
        while line and line[-1] == current:
            line.pop()
        if not line:
            raise UserError(f"version {current} of {name} is the first champion; there is none before it to go back to")
        previous, by = line[-1], by or user()
        client.set_registered_model_alias(name, CHAMPION, previous)
        move = _write_move(client, name, "rollback", previous, previous=current, by=by, reason=reason)
        _tag(client, name, current, _decided("rolled back", [reason], by=by, against=previous))
        _tag(client, name, previous, _decided("promoted", [f"rollback: {reason}"], by=by, against=current))
    return move


def history(name: str) -> list[Move]:
    """Every move of the alias `champion`, oldest first."""
    client = connect()
    with mlflow_errors():
        tags = _model_tags(client, name)
    return [Move(**json.loads(tags[key])) for key in sorted(tags) if key.startswith("promotion.")]


def _succession(moves: list[Move], current: str) -> list[str]:
    """The champions in line, `current` last: a promotion adds one, a rollback takes away what came after its version.

    An alias that was moved by hand counts as a promotion.
    """
    line: list[str] = []
    for move in moves:
        while move.action == "rollback" and line and line[-1] != move.version:
            line.pop()
        if not line or line[-1] != move.version:
            line.append(move.version)
    if not line or line[-1] != current:
        line.append(current)
    return line


def _conclude(
    verdict: Literal["promoted", "kept", "pending"],
    candidate: Version,
    current: Version | None,
    reasons: tuple[str, ...],
    champion_record: Mapping[str, Any] | None,
) -> Outcome:
    client, name = connect(), candidate.name
    with _alone(), mlflow_errors():
        now = _aliases(client, name).get(CHAMPION)
        before = None if current is None else current.number
        if now != before:
            raise UserError(
                f"the champion of {name} changed from {before} to {now} while version {candidate.number} was judged; "
                "judge it again with `dvc repro register`"
            )
        if verdict == "promoted":
            _promote(client, candidate, reason="; ".join(reasons), by=f"gate, run by {user()}")
        else:
            _drop_challenger(client, candidate)
            _tag(client, name, candidate.number, _decided(verdict, reasons, by="gate", against=before))
            if verdict == "pending":
                client.set_registered_model_alias(name, CHALLENGER, candidate.number)
        if candidate.run_id is not None:
            client.set_tag(candidate.run_id, "decision", f"{verdict} as version {candidate.number} of {name}")
    return Outcome(verdict, version(name, candidate.number), current, reasons, champion_record)


def _promote(client: "MlflowClient", found: Version, *, reason: str, by: str) -> Move:
    # The alias moves first: if this process ends here, the history knows less than is true, and
    # `_succession` mends that; the other way round it would know something that never was.
    previous = _aliases(client, found.name).get(CHAMPION)
    client.set_registered_model_alias(found.name, CHAMPION, found.number)
    move = _write_move(client, found.name, "promote", found.number, previous=previous, by=by, reason=reason)
    _tag(client, found.name, found.number, _decided("promoted", [reason], by=by, against=previous))
    if previous is not None:
        _tag(client, found.name, previous, {"replaced_by": found.number, "replaced_at": move.when})
    _drop_challenger(client, found)
    return move


def _write_move(
    client: "MlflowClient",
    name: str,
    action: Literal["promote", "rollback"],
    number: str,
    *,
    previous: str | None,
    by: str,
    reason: str,
) -> Move:
    # A tag of a registered model holds 5,000 characters in an SQL store.
    move = Move(action, number, previous, by, _now(), reason[:4000])
    taken = [key for key in _model_tags(client, name) if key.startswith("promotion.")]
    client.set_registered_model_tag(name, f"promotion.{len(taken) + 1:06d}", json.dumps(move.__dict__))
    return move


def _shown(figures: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: "none" if value is None else f"{value:.6g}"
        for key, value in figures.items()
        if value is None or isinstance(value, int | float)
    }


def _decided(decision: str, reasons: Any, *, by: str, against: str | None) -> dict[str, str]:
    return {
        "decision": decision,
        "reasons": "; ".join(reasons),
        "decided_at": _now(),
        "decided_by": by,
        "decided_against": against or "none",
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


def _drop_challenger(client: "MlflowClient", found: Version) -> None:
    if _aliases(client, found.name).get(CHALLENGER) == found.number:
        client.delete_registered_model_alias(found.name, CHALLENGER)


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tag(client: "MlflowClient", name: str, number: str, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)


def _aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """alias -> version; a search answers without aliases."""
    model = _registered(client, name)
    return {} if model is None else {alias: str(number) for alias, number in model.aliases.items()}


def _model_tags(client: "MlflowClient", name: str) -> dict[str, str]:
    model = _registered(client, name)
    return {} if model is None else model.tags


def _registered(client: "MlflowClient", name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _alone() -> Iterator[None]:
    """One promotion at a time on this machine; MLflow itself has no compare-and-set for an alias."""
    if tracking_uri() == default_uri():
        path = project() / ".state" / "registry.lock"
        path.parent.mkdir(exist_ok=True)
    else:  # whatever folder a server is spoken to from
        store = hashlib.sha256(tracking_uri().encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"ddpm-{os.getuid()}-{store}.lock"
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
