"""What a run does about incoming pictures where a person decides, and where they cannot be compared or taken."""

from pathlib import Path

import pytest
from coming_digits import furnish
from conftest import ROOT

from ddpm import overlay
from ddpm.data.preparing.prepare import prepare
from ddpm.params import load as load_params


def set_values(**sections: dict) -> None:
    overlay.write_values(Path("params.yaml"), sections, "a test")


@pytest.mark.slow  # trains an extractor, and compares in processes of their own
def test_drift_is_reported_once_and_nothing_is_taken_that_settings_or_data_do_not_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import incoming

    (tmp_path / "data/raw").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "there are no prepared data yet" in incoming.look(seconds=None).sentence
    prepare(load_params().data, raw=Path("data/raw"), prepared=Path("data/prepared"), workers=1, progress=False)
    assert incoming.look(seconds=None) == incoming.NOTHING, "no picture has come in"

    (tmp_path / "later/inverted").rename(tmp_path / "incoming/inverted")
    for folder in (tmp_path / "incoming/inverted").iterdir():
        folder.rename(tmp_path / "incoming" / folder.name)
    before = sorted(Path("data/raw").rglob("*"))
    set_values(retrain={"on_drift": "report"})
    found = incoming.look(seconds=None)
    assert (found.drifted, found.is_new, found.in_data) == (True, True, False)
    assert found.sentence.startswith("drift: Fréchet distance ")
    assert Path("reports/drift.png").stat().st_size > 10_000
    written = incoming.RECORD.stat().st_mtime_ns
    again = incoming.look(seconds=None)
    assert (again.sentence, again.is_new) == (found.sentence, False)
    assert incoming.RECORD.stat().st_mtime_ns == written, "the same question is not asked again"

    set_values(retrain={"on_drift": "train"}, data={"source": "digits"})
    refused = incoming.look(seconds=None)
    assert not refused.in_data
    assert "no picture was taken into the data: retrain.on_drift is train" in refused.sentence
    assert "set on_drift to report, or data.source to folder" in refused.sentence
    assert sorted(Path("data/raw").rglob("*")) == before

    incoming.EXTRACTOR.write_bytes(b"torn")
    torn = incoming.look(seconds=None)
    assert "the incoming pictures were not compared: models/extractor.safetensors is not a complete" in torn.sentence
    set_values(retrain={"incoming": "gone"})
    assert "retrain.incoming is gone, expected a folder of pictures" in incoming.look(seconds=None).sentence
