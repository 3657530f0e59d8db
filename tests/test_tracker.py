import json
import math
from pathlib import Path

import pytest
from PIL import Image

from ddpm.errors import UserError
from ddpm.tracker import JsonLinesTracker, NullTracker, Tracker, finishing, flat


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def use(tracker: Tracker) -> None:
    tracker.params({"train.lr": 0.1})
    tracker.tags({"git": "abc"})
    tracker.log({"loss": 0.5}, images_seen=128)
    tracker.image("samples", Image.new("L", (4, 4)), images_seen=128)
    tracker.artifact(Path("report.json"))
    tracker.finish()


def test_every_event_is_a_line_of_json_in_order(tmp_path: Path) -> None:
    use(JsonLinesTracker(tmp_path / "new" / "run.jsonl"))
    lines = read(tmp_path / "new" / "run.jsonl")
    assert [line["what"] for line in lines] == ["params", "tags", "metrics", "image", "artifact", "status"]
    assert lines[2]["values"] == {"loss": 0.5}
    assert lines[2]["images_seen"] == 128
    assert lines[5]["values"] == {"status": "FINISHED"}


def test_a_picture_is_a_png_that_its_line_names(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "run.jsonl")
    tracker.image("samples", Image.new("L", (4, 4), 7), images_seen=256)
    with Image.open(read(tracker.path)[0]["values"]["samples"]) as picture:
        assert picture.getpixel((0, 0)) == 7


def test_a_metric_that_is_not_finite_is_null_because_json_has_no_nan(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "run.jsonl")
    tracker.log({"loss": math.nan, "norm": math.inf, "lr": 0.1}, images_seen=0)
    assert read(tracker.path)[0]["values"] == {"loss": None, "norm": None, "lr": 0.1}


def test_a_second_tracker_on_the_same_file_appends_to_it(tmp_path: Path) -> None:
    for k in range(2):
        JsonLinesTracker(tmp_path / "run.jsonl").log({"loss": k}, images_seen=k)
    assert [line["images_seen"] for line in read(tmp_path / "run.jsonl")] == [0, 1]


@pytest.mark.parametrize(
    ("raised", "status"),
    [(ValueError, "FAILED"), (UserError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_an_exception_in_the_block_sets_the_status_of_the_run_and_is_raised_again(
    tmp_path: Path, raised: type[BaseException], status: str
) -> None:
    tracker = JsonLinesTracker(tmp_path / "run.jsonl")
    with pytest.raises(raised), finishing(tracker):
        raise raised("two and two is 5")
    assert read(tracker.path)[-1]["values"] == {"status": status}


def test_a_tracker_that_cannot_finish_does_not_hide_the_first_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = JsonLinesTracker(tmp_path / "run.jsonl")
    tracker.path = tmp_path / "gone" / "run.jsonl"
    with pytest.raises(ValueError, match="the true cause"), finishing(tracker):
        raise ValueError("the true cause")
    assert "could not be finished" in capsys.readouterr().err


def test_a_block_that_ends_finishes_the_run_once(tmp_path: Path) -> None:
    tracker = JsonLinesTracker(tmp_path / "run.jsonl")
    with finishing(tracker):
        tracker.log({"loss": 1.0}, images_seen=1)
    assert [line["what"] for line in read(tracker.path)] == ["metrics", "status"]


def test_the_null_tracker_accepts_everything_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    use(NullTracker())
    assert list(tmp_path.iterdir()) == []


def test_flat_names_a_key_by_its_section() -> None:
    assert flat(train={"lr": 0.1}, schedule={"T": 10}) == {"train.lr": 0.1, "schedule.T": 10}
