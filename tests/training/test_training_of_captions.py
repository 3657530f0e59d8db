"""A training of captions behaves as one of labels does: it continues exactly, in parts of a batch and in processes."""

import json
import signal
from pathlib import Path

import forked
import pytest
import tiny_captions as tiny
import torch


def test_a_training_that_was_stopped_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = tiny.finished(tiny.begin(tmp_path / "whole"))
    stopped = tiny.begin(tmp_path / "stopped")
    for step in stopped.steps():
        if step.images_seen == 16 * 5:
            break
    stopped.save(wait=True)
    stopped.close()
    again = tiny.begin(tmp_path / "stopped")
    assert again.saved_images == 16 * 5
    found = tiny.finished(again)
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    start = tiny.begin(tmp_path / "new").average().state_dict()
    assert not torch.equal(start["text.token.weight"], whole["text.token.weight"]), "the encoder is trained"


def test_a_training_that_was_killed_ends_with_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiny.finish(whole)
    process = forked.PROCESSES.Process(target=tiny.die, args=(killed,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    capsys.readouterr()
    tiny.finish(killed)
    assert "continuing after " in capsys.readouterr().out
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_parts_of_a_batch_give_the_same_training_up_to_rounding(tmp_path: Path) -> None:
    whole, parts = (
        tiny.finished(tiny.begin(tmp_path / str(n), spec=tiny.UNDROPPED, device_batch=n)) for n in (None, 5)
    )
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    forked.run_together(2, tiny.in_processes, tmp_path, folder=tmp_path)
    one, other = (json.loads((tmp_path / f"numbers-{rank}.json").read_text()) for rank in range(2))
    assert one == other
    alone = tiny.numbers()
    for name in tiny.DIVISIONS:
        assert one[name] == pytest.approx(alone, rel=1e-3), name
