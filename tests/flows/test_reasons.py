"""The reasons to run the pipeline, from a real `dvc status` and dvc.lock."""

from pathlib import Path

import dvc_stage
import pytest
import reasons
from conftest import Project

DATA = Path("data/raw")


@pytest.fixture
def built(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in which every stage has run."""
    monkeypatch.chdir(project.path)
    monkeypatch.setenv("DDPM_TEST_MARK", project.mark)
    for stage in dvc_stage.stages():
        limits = {"timeout_seconds": None, "silent_seconds": None}
        assert dvc_stage.run(stage, force=False, report=lambda line: None, **limits).ok
    return project


def found() -> list[reasons.Reason]:
    return reasons.of_changes(dvc_stage.changes(), data=DATA)


def test_every_change_is_a_reason_with_old_and_new_value_and_its_stages(built: Project) -> None:
    assert found() == []
    params = Path("params.yaml")
    changed = params.read_text().replace("  images: 60000 ", "  images: 70000 ", 3).replace("rho: 7.0", "rho: 6.5")
    params.write_text(changed.replace("  sampler: dpmpp_2m ", "  sampler: '<b>|`x`' "))
    built.say("good")
    Path("reports/validation.json").write_text("[]")
    assert [str(reason) for reason in found()] == [
        "train.images 60000 → 70000 (train)",
        "sample.sampler dpmpp_2m → <b>|`x` (train)",
        "sample.karras.rho 7.0 → 6.5 (train)",
        "data in data/raw modified (validate, train)",
        "output reports/validation.json modified (validate)",
        "reports/validation.json modified (train)",
    ]
    assert reasons.in_short(found()) == "train.images 60000 → 70000, 2 more settings, data"


def test_a_clone_without_results_has_one_reason_instead_of_every_file_that_it_lacks(built: Project) -> None:
    for name in ("reports/validation.json", "reports/metrics.json"):
        Path(name).unlink()
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("  images: 60000 ", "  images: 70000 ", 3))
    assert [str(reason) for reason in found()] == ["no results in this folder yet"]


def test_a_setting_that_is_new_or_gone_and_a_long_value_are_shown() -> None:
    recorded = {"old": 1, "list": list(range(100))}
    changed = reasons._changed("data", reasons._leaves(recorded), reasons._leaves({"list": [1], "new": None}))
    assert changed[0] == "data.old 1 → (none)"
    assert len(changed[1]) < 100
    assert changed[1].endswith(" … → [1]")
    assert changed[2] == "data.new (none) → null"
