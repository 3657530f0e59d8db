"""Entries arrive in order and once, for any failure of receiver or disk, and `put` never waits."""

import json
import threading
import time
from pathlib import Path

import pytest
from waiting import HANG_SECONDS, wait_for

from ddpm.errors import UserError
from ddpm.tracking import outbox
from ddpm.tracking.outbox import Outbox, Sender


class Receiver:
    """Takes at most two entries at a time; refuses while `open` is False, and hangs while `free` is not set."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.calls = 0
        self.open = True
        self.free = threading.Event()
        self.free.set()

    def take(self, entries: list[dict]) -> int:
        self.calls += 1
        self.free.wait()
        if not self.open:
            raise UserError("it refused")
        self.taken += [entry["k"] for entry in entries[:2]]
        return len(entries[:2])


def sender(receiver: Receiver, folder: Path | None = None) -> Sender:
    return Sender(Outbox(folder), receiver.take, where="the receiver", every_seconds=0.02)


def test_entries_arrive_in_order_and_leave_nothing(tmp_path: Path) -> None:
    receiver = Receiver()
    sending = sender(receiver, tmp_path / "unsent")
    for k in range(25):
        sending.put({"k": k})
    sending.settle(HANG_SECONDS)
    assert receiver.taken == list(range(25))
    assert not (tmp_path / "unsent").exists()


def test_a_receiver_that_hangs_holds_nobody_up_and_gets_everything_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver = Receiver()
    receiver.free.clear()
    sending = sender(receiver, tmp_path / "unsent")
    for k in range(100):
        sending.put({"k": k})
    with pytest.raises(
        UserError, match=r"the receiver did not answer; in 0\.3 s it took none of 100 entries, .*unsent"
    ):
        sending.settle(0.3)
    monkeypatch.setattr(outbox, "SILENT_SECONDS", 0.2)
    sending.put({"k": 100})
    assert "the receiver has not answered for 0.2 s; 101 entries wait in" in capsys.readouterr().err
    receiver.free.set()
    sending.settle(HANG_SECONDS)
    assert receiver.taken == list(range(101))
    assert "the receiver answers again" in capsys.readouterr().err


def test_a_receiver_that_refuses_is_reported_once_and_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    receiver = Receiver()
    receiver.open = False
    sending = sender(receiver)
    for k in range(3):
        sending.put({"k": k})
    wait_for(lambda: receiver.calls >= 3)
    with pytest.raises(UserError, match=r"it refused; in 0\.1 s it took none of 3 entries"):
        sending.settle(0.1)
    assert capsys.readouterr().err.count("it refused") == 1
    receiver.open = True
    wait_for(lambda: receiver.taken == [0, 1, 2])


def test_what_a_process_left_is_sent_by_the_next_before_what_is_new(tmp_path: Path) -> None:
    left = Outbox(tmp_path / "unsent")
    for k in range(3):
        left.put({"k": k})
    receiver = Receiver()
    sending = sender(receiver, tmp_path / "unsent")
    sending.put({"k": 3})
    sending.settle(HANG_SECONDS)
    assert receiver.taken == [0, 1, 2, 3]


def test_a_damaged_entry_is_reported_and_the_others_are_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = Outbox(tmp_path / "unsent")
    for k in range(3):
        left.put({"k": k})
    torn = sorted((tmp_path / "unsent").iterdir())[1]
    torn.write_text(json.dumps({"k": 1})[:3])
    receiver = Receiver()
    sender(receiver, tmp_path / "unsent").settle(HANG_SECONDS)
    assert receiver.taken == [0, 2]
    assert f"{torn} is damaged" in capsys.readouterr().err


def test_without_space_on_the_disk_entries_are_sent_from_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unsent").write_text("a file where the folder should be")
    receiver = Receiver()
    sending = sender(receiver, tmp_path / "unsent")
    sending.put({"k": 0})
    sending.settle(HANG_SECONDS)
    assert receiver.taken == [0]
    assert "could not be written" in capsys.readouterr().err


def test_a_closed_sender_sends_no_more(tmp_path: Path) -> None:
    receiver = Receiver()
    sending = sender(receiver, tmp_path / "unsent")
    sending.close()
    time.sleep(0.1)
    sending.put({"k": 0})
    time.sleep(0.2)
    assert receiver.taken == []
    assert len(list((tmp_path / "unsent").iterdir())) == 1
