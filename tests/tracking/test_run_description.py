"""The description of a run is made of sections, which stages write one after another."""

from pathlib import Path

from tracked_run import run_of, start

from ddpm.tracking.run_description import MAX_CHARACTERS, describe, with_sections

NOTE = "mlflow.note.content"


def test_stages_add_sections_in_the_order_of_reading_and_replace_their_own(project: Path) -> None:
    tracker = start()
    describe(tracker, What_was_tried="nothing new", Samples="a picture")
    describe(tracker, Decision="kept")
    describe(tracker, Samples="another picture")
    tracker.finish()
    assert run_of(tracker).data.tags[NOTE] == (
        "### Decision\n\nkept\n\n### Samples\n\nanother picture\n\n### What was tried\n\nnothing new"
    )


def test_what_a_person_wrote_stays() -> None:
    written = with_sections("My note.\n\n### Mine\n\nlook\n\n### Samples\n\nold", {"Samples": "new"})
    assert written == "My note.\n\n### Samples\n\nnew\n\n### Mine\n\nlook"


def test_it_fits_into_a_tag_of_mlflow() -> None:
    written = with_sections("", {"Decision": "kept", "Metrics": "a line\n" * 5000})
    assert len(written) <= MAX_CHARACTERS + 3
    assert written.startswith("### Decision\n\nkept")
    assert written.endswith("a line\n\n…")
