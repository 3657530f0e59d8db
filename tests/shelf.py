"""Logged models in a real store, to register and to judge."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fixed_contest import FixedContest, promote

from ddpm.promotion import registry
from ddpm.promotion.gate import MEMORIZED
from ddpm.promotion.judge import Outcome, judge
from ddpm.promotion.registry import Version
from ddpm.tracking import store
from ddpm.tracking.mlflow_registry import MlflowRegistry

REGISTRY = MlflowRegistry("ddpm")


PROTOCOL = {"n": 100, "seed": 0, "extractor_hash": "e"}


SHAPE = {"channels": "1", "size": "8"}


def record(fid: float, **changes: Any) -> dict[str, Any]:
    figures = {"fid": fid, "kid": None} | dict.fromkeys(MEMORIZED, 0.01)
    return {**figures, "floor": {"fid": 4.0}, "protocol": PROTOCOL} | changes


class Shelf:
    """Logged models to register, tiny and untrained, distinguished by a number."""

    def __init__(self, project: Path, tiny_model: Callable[..., str]) -> None:
        self.project, self.tiny_model = project, tiny_model
        self.client = store.connect()
        location = (project / "mlartifacts").as_uri()
        self.experiment = self.client.create_experiment("tests", artifact_location=location)
        self.run_id = self.client.create_run(self.experiment).info.run_id
        self.logged: dict[int, str] = {}

    def file(self, seed: int) -> Path:
        return self.project / f"served-{seed}" / "artifacts" / "model.safetensors"

    def content(self, seed: int) -> bytes:
        return self.file(seed).read_bytes()

    def model_id(self, seed: int) -> str:
        if seed not in self.logged:
            model = self.client.create_logged_model(self.experiment, source_run_id=self.run_id)
            self.tiny_model(self.file(seed), seed=seed)
            self.client.log_model_artifacts(model.model_id, str(self.file(seed).parents[1]))
            self.client.finalize_logged_model(model.model_id, "READY")
            self.logged[seed] = model.model_id
        return self.logged[seed]

    def register(self, seed: int, measured: Mapping[str, Any], **tags: str) -> Version:
        model_id = self.model_id(seed)
        return REGISTRY.register(
            sha256=hashlib.sha256(self.content(seed)).hexdigest(),
            model_id=model_id,
            run_id=self.run_id,
            record=measured,
            tags=SHAPE | tags,
        )

    def judged(self, seed: int, fid: float, **rule: Any) -> Outcome:
        return self.judge(self.register(seed, record(fid)), **rule)

    def judge(self, candidate: Version, remeasured: Mapping[str, Any] | None = None, **changes: Any) -> Outcome:
        def begin(_: Path, champion: Path | None) -> FixedContest:
            measured = candidate.record() or {}
            before = [move.version for move in REGISTRY.history() if move.version]
            known = None if champion is None else registry.version(REGISTRY, before[-1]).record_like(measured)
            if champion is not None and known is None:
                assert remeasured is not None, "measured again without need"
                self.remeasured_file = champion.read_bytes()
            return FixedContest(measured, known or remeasured)

        folder = self.project / "downloads"
        return judge(candidate, REGISTRY, rules=promote(**changes), begin=begin, folder=folder)

    def champion(self) -> str | None:
        found = registry.champion(REGISTRY)
        return found and found.number


def moved_by_hand(shelf: Shelf, to: str | None) -> None:
    """Move the alias as MLflow's page does."""
    if to is None:
        shelf.client.delete_registered_model_alias("ddpm", "champion")
    else:
        shelf.client.set_registered_model_alias("ddpm", "champion", to)
