"""Run one DVC stage in a subprocess: report its output by line and its end in one sentence, leave nothing running."""

import codecs
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from ddpm.data.preparing.tree import require_readable
from ddpm.errors import UserError
from ddpm.files import disk_trouble_in
from ddpm.params import load as load_params
from ddpm.pipeline import dvc_lock, running_list
from ddpm.pipeline.workspace import GRACE_SECONDS, TRY_AGAIN, launcher_environment
from ddpm.redaction import redacted

PROGRESS_SECONDS = 5.0
"""Interval at which a progress bar is logged; it rewrites its line many times per second."""
_POLL_SECONDS = 0.1
_LOOK_FOR_STAGE_SECONDS = 5.0
"""Interval at which the children of dvc are listed while there is no output; listing takes milliseconds."""
_SENTENCE_CHARACTERS = 500
"""Longest message of a run; the log has the whole message of a crash."""
_ADVICE = re.compile(
    r"To track the changes with git|\s*git add |To enable auto staging|\s*dvc config core\.|Use `dvc push`"
)
"""Hints that dvc prints after every stage, which are not logged."""
_TERMINAL_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    ok: bool
    message: str
    """One sentence: the stage's own if it printed one."""
    ran: bool = True
    """False if nothing had changed or DVC took the outputs from its cache."""
    try_again: bool = False
    """Whether the stage crashed, was killed, did not reach a server, or found DVC busy. An error that a person must
    correct is not retried."""


def stages() -> list[str]:
    """Return the stages of dvc.yaml in the working folder, in the order of the file.

    Raises UserError if there is no dvc.yaml.
    """
    from ruamel.yaml import YAML

    path = Path("dvc.yaml")
    if not path.exists():
        raise UserError(f"dvc.yaml was not found in {Path.cwd()}; start the flow in the project's folder")
    return list(YAML(typ="safe").load(path.read_text())["stages"])


def look(report: Callable[[str], None] = print) -> None:
    """Mend a torn dvc.lock, which `report` tells; call it as owner of the folder, before a dvc reads it.

    Raises UserError if there is something at data.path that makes DVC wait or fail, or that DVC does not see.
    """
    dvc_lock.mend(report)
    data = load_params().data
    require_readable(Path(data.path), source=data.source)


def changes(*, silent_seconds: float | None = None) -> dict[str, list[Any]]:
    """Return what DVC finds changed: stage -> findings of `dvc status --json`; empty if nothing has changed.

    DVC compares content hashes. Raises UserError, with DVC's sentence, if `dvc status` fails, and if it takes longer
    than `silent_seconds`.
    """
    running_list.mend(report=print)
    try:
        answer = subprocess.run(
            _dvc("status", "--json"), env=_environment(), capture_output=True, text=True, timeout=silent_seconds
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"dvc status {_silence(silent_seconds)}") from None
    if answer.returncode != 0:
        raise UserError(_dvc_error(answer.stderr.splitlines()) or f"dvc status ended with {answer.returncode}")
    found: dict[str, list[Any]] = json.loads(answer.stdout)
    return found


def run(
    stage: str,
    *,
    force: bool,
    timeout_seconds: float | None,
    report: Callable[[str], None],
    silent_seconds: float | None = None,
    stop: Callable[[], str | None] | None = None,
) -> Outcome:
    """Run `dvc repro --single-item STAGE` and call `report` with each line of output as soon as it is printed.

    `silent_seconds` limits the time that dvc prints nothing before and after the stage; the stage itself has no such
    limit. `stop` is asked several times per second; a sentence that it returns ends the stage and is the message.
    When this function ends, by an exception too, the stage and all processes that it started have ended.
    """
    running_list.mend(report)
    command = _dvc("repro", "--single-item", *(["--force"] if force else []), stage)
    end = time.monotonic() + timeout_seconds if timeout_seconds else float("inf")
    lines = _Lines(report)
    # A file instead of a pipe: if this process is killed, the stage can still write while it saves its work.
    with tempfile.TemporaryFile() as output, _started(command, output) as process:
        position = 0
        silence = _Silence(process.pid)
        while True:
            status = process.poll()
            written = os.pread(output.fileno(), 1 << 20, position)
            position += len(written)
            lines.feed(written)
            if time.monotonic() > end:
                return Outcome(False, f"it did not end within {timeout_seconds:g} seconds and was stopped")
            if status is None and stop is not None and (sentence := stop()):
                return Outcome(False, sentence)
            if not written and status is not None:
                lines.finish()
                return _outcome(status, lines.seen)
            if written:
                silence.ends()
            elif silent_seconds and silence.lasts_longer(silent_seconds):
                return Outcome(False, f"dvc {_silence(silent_seconds)}")
            else:
                time.sleep(_POLL_SECONDS)


def _silence(seconds: float | None) -> str:
    return (
        f"printed nothing for {seconds:g} seconds while no stage ran, so it was stopped; check that the disks of "
        "data.path and .dvc answer, or raise silent_seconds"
    )


class _Silence:
    """Measures how long dvc has printed nothing; the time in which it runs a stage does not count."""

    def __init__(self, dvc: int) -> None:
        self._dvc = dvc
        self._since = self._looked = time.monotonic()

    def ends(self) -> None:
        self._since = time.monotonic()

    def lasts_longer(self, seconds: float) -> bool:
        now = time.monotonic()
        if now - self._looked > _LOOK_FOR_STAGE_SECONDS or now - self._since > seconds:
            self._looked = now
            with suppress(psutil.NoSuchProcess):
                if psutil.Process(self._dvc).children():
                    self._since = now
        return now - self._since > seconds


class _Lines:
    """Splits bytes into lines. A progress bar (a line that ends in a carriage return) is reported every few seconds."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.seen: list[str] = []
        self._report = report
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._next_progress = 0.0

    def feed(self, written: bytes) -> None:
        *complete, self._rest = re.split(r"(?<=\n)|(?<=\r)(?!\n)", self._rest + self._decoder.decode(written))
        for piece in complete:
            self._take(piece)

    def finish(self) -> None:
        self._take(self._rest + "\n")

    def _take(self, piece: str) -> None:
        line = redacted(_TERMINAL_CODES.sub("", piece).rstrip())
        if not line or _ADVICE.match(line):
            return
        if piece.endswith("\r"):
            if time.monotonic() < self._next_progress:
                return
            self._next_progress = time.monotonic() + PROGRESS_SECONDS
        else:
            self.seen.append(line)
        self._report(line)


def _dvc(*words: str) -> list[str]:
    """Return a command of this interpreter's dvc, which waits while another dvc reads or writes the index."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *words]


def _environment() -> dict[str, str]:
    """Return the environment of dvc: `python` is this interpreter, output is unbuffered, stages know their launcher."""
    programs = str(Path(sys.executable).parent)
    defaults = {"DVC_NO_ANALYTICS": "1", "TQDM_MININTERVAL": "1"}
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    return defaults | os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"} | launcher_environment()


@contextmanager
def _started(command: list[str], output: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in this process group, so that a signal to the group reaches it; end it with all its children."""
    process = subprocess.Popen(
        command, env=_environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM, wait GRACE_SECONDS, send SIGKILL.

    While dvc runs a stage, only the stage gets SIGTERM: dvc ends in order after its stage.
    """
    try:
        dvc = psutil.Process(process.pid)
        below = dvc.children(recursive=True)
    except psutil.NoSuchProcess:
        process.wait()
        return
    for each in below or [dvc]:
        with suppress(psutil.NoSuchProcess):
            each.terminate()
    _, alive = psutil.wait_procs([*below, dvc], timeout=GRACE_SECONDS)
    for each in alive:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def _outcome(status: int, lines: list[str]) -> Outcome:
    if status == 0:
        skipped = any(line.startswith("Stage '") and "skipping" in line for line in lines)
        return Outcome(True, "nothing had changed" if skipped else "done", ran=not skipped)
    crashed = any(line.startswith("Traceback (most recent call last)") for line in lines)
    sentence = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    dvc_error = _dvc_error(lines)
    exited = re.search(r"exited with (-?\d+)$", dvc_error)
    code = int(exited[1]) if exited else status
    if sentence:
        shortened = textwrap.shorten(sentence, _SENTENCE_CHARACTERS, placeholder=" …")
        return Outcome(False, shortened, try_again=crashed or code == TRY_AGAIN)
    killed_by = _signal(code)
    if killed_by:
        return Outcome(False, f"it was killed by {killed_by.name}", try_again=True)
    if exited:
        return Outcome(False, f"it exited with {code} and printed no error; see its log", try_again=True)
    return Outcome(False, dvc_error or f"dvc exited with {status}", try_again="is busy" in dvc_error)


def _signal(code: int) -> signal.Signals | None:
    """Return the signal that ended a process: for SIGKILL, subprocess reports -9 and a shell in between 128 + 9."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number) if number in set(signal.Signals) else None


def _dvc_error(lines: list[str]) -> str:
    """Return the last error that dvc printed, as one sentence without its preamble; empty if there is none.

    dvc says neither which file it could not write nor what to do.
    """
    # The error may follow a progress bar on the same line, which a killed stage did not end.
    start = next((i for i in reversed(range(len(lines))) if "ERROR: " in lines[i]), None)
    if start is None:
        return ""
    text = " ".join(line.strip() for line in lines[start:]).partition("ERROR: ")[2]
    text = re.sub(r"^failed to reproduce '[^']*': (?:failed to run: )?", "", text)
    sentence = text.split(" If there are no processes")[0].strip()
    trouble = disk_trouble_in(sentence, below=Path.cwd())
    return f"dvc: {trouble}" if trouble else sentence
