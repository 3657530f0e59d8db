"""Checkpoints written by a thread while the training continues.

`torch.distributed.checkpoint` is not used to write: its processes agree by collectives that send pickles, which can run
code, over ports without authentication, and its asynchronous form runs collectives in a thread. Here each process
copies and writes its own part, and rank 0 finds the parts of the others in the folder, which all processes see.
The parts have the layout of its HuggingFaceStorageWriter, so its HuggingFaceStorageReader can read them.
"""

import json
import math
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from ddpm.compute.processes import any_of, leads, processes, rank
from ddpm.training import checkpoint_file, checkpoint_folder
from ddpm.training.checkpoint_folder import FORMAT
from ddpm.training.loop import State
from ddpm.training.snapshot import Snapshot
from ddpm.training.state_pieces import own_share, tensors_of

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 10.0
"""Time for which rank 0 waits for the parts of other processes if one of them may be lost."""


class NotWrittenError(Exception):
    """The checkpoint could not be written; earlier ones are unchanged. The message is the first part of a sentence.

    It has a cause in the processes that failed, and none in the others.
    """


class Writer:
    """Writes the checkpoints of a training into its folder, at most one at a time."""

    def __init__(self, folder: Path, *, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._snapshot = Snapshot()
        self._session = ""
        self._thread: threading.Thread | None = None
        self._own_part_done = threading.Event()
        self._give_up_at = math.inf
        self._path: Path | None = None
        self._error: BaseException | None = None

    def begin(self, state: State, *, extra: dict[str, Any]) -> None:
        """Copy the state and begin to write it; the state may change when this returns. All processes must call this.

        `extra` is plain data that belongs to this position: the curves so far, the tracker's run. The write before must
        be finished.
        """
        assert self._thread is None, "another checkpoint is being written"
        if processes() > 1 and not self._session:
            self._session = _common_session()
        header = {
            "fingerprint": self._fingerprint,
            "images_seen": state.images_seen,
            "nonfinite_steps": int(state.nonfinite_steps),
            "nonfinite_in_a_row": int(state.nonfinite_in_a_row),
            "extra": extra,
        }
        text = json.dumps(header)  # now, because `extra` changes while the thread writes
        share = own_share(tensors_of(state))
        self._snapshot.take({name: piece.values for name, piece in share.items()})
        offsets = {name: piece.offset for name, piece in share.items()}
        self._path = self._error = None
        self._give_up_at = math.inf
        self._own_part_done.clear()
        self._thread = threading.Thread(target=self._run, args=(state.images_seen, offsets, text), name="checkpoint")
        self._thread.start()

    def finish(self, *, together: bool = True) -> Path | None:
        """Wait until the checkpoint is written, if there is one; return its path in rank 0.

        All processes must call this, unless `together` is False: then no other process is asked, because it may be
        lost, and rank 0 waits for the parts of the others for some seconds only.
        Raises NotWrittenError, in all processes, if the disk of one is full or cannot be written to; then nothing of
        the checkpoint is left.
        """
        if self._thread is None:
            return None
        together = together and processes() > 1
        self._own_part_done.wait()
        if not together:
            self._give_up_at = time.monotonic() + _PATIENCE_SECONDS
        else:
            self._ask_the_others()
        self._thread.join()
        self._thread = None
        failed = self._error is not None
        if failed and leads() and (together or processes() == 1):
            checkpoint_folder.remove_leftovers(self._folder)  # no other process is writing now
        if together:
            failed = any_of(failed)[0]
        if not failed:
            return self._path
        if isinstance(self._error, (SafetensorError, OSError)):
            raise NotWrittenError(f"{self._folder} could not be written to ({self._error})") from self._error
        if self._error is None or isinstance(self._error, _PartMissingError):
            raise NotWrittenError(f"another process could not write its part of the checkpoint to {self._folder}")
        raise self._error

    def _ask_the_others(self) -> None:
        """Let rank 0 give up if a part could not be written, and soon if another process is lost, which raises."""
        try:
            if any_of(self._error is not None)[0]:
                self._give_up_at = 0.0
        except BaseException:
            self._give_up_at = time.monotonic() + _PATIENCE_SECONDS  # or the thread would keep this process for ever
            raise

    def _run(self, images_seen: int, offsets: dict[str, tuple[int, ...]], header: str) -> None:
        """Write the checkpoint; the thread's function."""
        try:
            self._snapshot.wait()
            tensors, parts = self._snapshot.tensors, []
            if processes() > 1:
                name = checkpoint_folder.part_name(images_seen, self._session, rank())
                own = checkpoint_file.write(self._folder, name, tensors, checkpoint_file.offsets(offsets))
                self._own_part_done.set()
                if not leads():
                    return
                parts, tensors = [own.name, *self._other_parts(images_seen)], {}
            text = json.dumps(json.loads(header) | {"parts": parts})
            name = checkpoint_folder.name_of(images_seen)
            self._path = checkpoint_file.write(self._folder, name, tensors, {FORMAT: text})
            checkpoint_folder.remove_others(self._path)
        except BaseException as error:  # raised by `finish`
            self._error = error
        finally:
            self._own_part_done.set()

    def _other_parts(self, images_seen: int) -> list[str]:
        """Return the names of the other processes' parts when all are there."""
        parts = []
        for other in range(1, processes()):
            while (part := checkpoint_folder.part_of(self._folder, images_seen, self._session, other)) is None:
                if time.monotonic() > self._give_up_at:
                    raise _PartMissingError
                time.sleep(_POLL_SECONDS)
            parts.append(part.name)
        return parts


class _PartMissingError(Exception):
    """Another process has not written its part."""


def _common_session() -> str:
    """Return a random name that is the same in all processes, so that parts of earlier ones are never mistaken."""
    number = torch.tensor(secrets.randbits(32))
    dist.broadcast(number, src=0)
    return f"{int(number):08x}"
