"""One command on a machine with a GPU: the tests marked `gpu` and the parts of gpu.py, into one JSON and one table.

    make gpu                                                          # all, half an hour; ends at once without a GPU
    python3 benchmarks/gpu_session.py --output OUT --call 1           # in calls of at most ten minutes: 1, 2, 3
    python3 benchmarks/gpu_session.py --fetch 3.12                    # wheels for a machine without a registry
    python3 benchmarks/gpu_session.py --write OUT1/gpu.json …         # their numbers into docs/performance.md

Every part is a process of its own with a time limit; one that fails or is stopped leaves the others, and its reason is
in the table. The project need not be installed: a Python with torch, NumPy and pytest is enough, and what else is
missing is installed from the folder of wheels into a temporary folder.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))
from gpu_goals import table  # noqa: E402

WHEELS = Path(".whl")
LIBRARIES = {
    "annotated_types": "annotated-types",
    "diffusers": "diffusers",
    "importlib_metadata": "importlib-metadata",
    "pydantic": "pydantic",
    "pydantic_core": "pydantic-core",
    "ruamel.yaml": "ruamel-yaml",
    "torch_fidelity": "torch-fidelity",
    "typing_inspection": "typing-inspection",
}
"""Modules that a machine with torch may lack, and their names in requirements-bench.lock."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
OUTCOME = re.compile(r"^(tests/\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)", re.MULTILINE)
REASON_CHARACTERS = 200


@dataclass(frozen=True)
class Part:
    """One process of the session."""

    name: str
    call: int
    seconds: float
    """Time limit, in calls of at most ten minutes."""
    longer: float | None = None
    """Time limit without such calls, if it is another."""


TESTS = "tests"
PARTS = (
    Part(TESTS, 1, 220),
    Part("peaks", 1, 30),
    Part("training-512", 1, 250),
    Part("training-128", 2, 190),
    Part("sampling", 2, 70),
    Part("features", 2, 50),
    Part("checkpoint", 2, 60),
    Part("defaults", 2, 100),
    Part("cifar10", 3, 530, longer=750),
)
"""Most important first; three calls take 25 minutes at most."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its output, its time, and why it was not complete; empty if it was."""

    printed: str
    seconds: float
    reason: str


def run(command: Sequence[str], *, limit: float, environment: Mapping[str, str], log: Path) -> Ended:
    """Run a command in the project's folder, add its output to the log, and kill it with its children at the limit."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        file.seek(0)
        printed = file.read()
    with open(log, "a") as text:
        text.write(f"$ {' '.join(command[1:])}\n{printed}\n")
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    if status is None:
        reason = f"stopped after {limit:.0f} s"
    else:
        reason = f"ended with {status}: {lines[-1] if lines else 'no output'}" if status else ""
    return Ended(printed, time.monotonic() - began, reason.replace("|", "/")[:REASON_CHARACTERS])


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process by SystemExit, so that `run` kills its part, too, which would keep the GPU busy."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def environment_with(site: Path, wheels: Path) -> dict[str, str]:
    """Return the environment of the parts. What is missing is installed from `wheels` into the folder `site`."""
    wanted = [name for module, name in LIBRARIES.items() if not _is_there(module)]
    found = [path for path in sorted(wheels.glob("*.whl")) if _library_of(path) in wanted]
    if found:
        target = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--target", str(site)]
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *target, *map(str, found)], check=True)
    lacking = sorted(set(wanted) - {_library_of(path) for path in found})
    if lacking:
        print(f"missing: {', '.join(lacking)}; what needs them fails (--fetch, --wheels)", flush=True)
    before = os.environ.get("PYTHONPATH")
    paths = [str(ROOT / "src"), str(site), *([before] if before else [])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1"}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _library_of(wheel: Path) -> str:
    return wheel.name.split("-")[0].replace("_", "-").replace(".", "-").lower()


def session(parts: Sequence[Part], args: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the parts in turn until the time is over; write the results after each. Return them."""
    output, deadline = args.output.resolve(), time.monotonic() + 60 * args.minutes
    output.mkdir(parents=True, exist_ok=True)
    log = output / "gpu.log"
    log.write_text("")
    program = (
        f"import sys; sys.path.insert(0, 'benchmarks'); from common import machine; print(machine({args.device!r}))"
    )
    named = run([sys.executable, "-c", program], limit=60, environment=environment, log=log)
    found: dict[str, Any] = {"machine": "" if named.reason else named.printed.strip().splitlines()[-1], "parts": {}}
    if args.tiny or args.device == "cpu":
        found["machine"] += " (not a result: a run on the CPU or a tiny one)"
    for part in parts:
        seconds = part.longer if part.longer and not args.call else part.seconds
        limit = min(seconds, deadline - time.monotonic())
        if limit < 5:
            found["parts"][part.name] = {"reason": "no time was left"}
        elif part.name == TESTS:
            found["parts"][TESTS] = tested(limit, environment, log)
        else:
            found["parts"][part.name] = measured(part.name, limit, args, environment, log)
        print(f"{part.name}: {found['parts'][part.name].get('reason') or 'measured'}", flush=True)
        (output / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
        (output / "gpu.md").write_text(report(found) + "\n")
    return found


def measured(
    name: str, limit: float, args: argparse.Namespace, environment: Mapping[str, str], log: Path
) -> dict[str, Any]:
    """Run a part of gpu.py; return its numbers, its seconds, and the reason why some are missing."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "part.json"
        command = [sys.executable, "benchmarks/gpu.py", name, "--device", args.device, "--output", str(output)]
        command += ["--seconds", f"{limit:.0f}", *(["--tiny"] if args.tiny else [])]
        command += ["--data", str(args.data.resolve())] if args.data else []
        ended = run(command, limit=limit, environment=environment, log=log)
        numbers = json.loads(output.read_text()) if output.exists() else {}
    return {"numbers": numbers, "seconds": round(ended.seconds, 1), "reason": ended.reason}


def tested(limit: float, environment: Mapping[str, str], log: Path) -> dict[str, Any]:
    """Run the tests marked `gpu`; return the outcome of each by its name."""
    ended = run([*pytest_command(), "-v", "-rfE"], limit=limit, environment=environment, log=log)
    outcomes = dict(OUTCOME.findall(ended.printed))
    reasons = dict(re.findall(r"^(?:FAILED|ERROR) (tests/\S+::.+?) - (.+)$", ended.printed, re.MULTILINE))
    return {"outcomes": outcomes, "reasons": reasons, "seconds": round(ended.seconds, 1), "reason": ended.reason}


def pytest_command() -> list[str]:
    return [sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu"]


def report(found: Mapping[str, Any]) -> str:
    """Return the tables of a session as Markdown."""
    parts = found["parts"]
    numbers = {name: part.get("numbers", {}) for name, part in parts.items()}
    reasons = {name: part["reason"] for name, part in parts.items() if part["reason"]}
    lines = [table(numbers, reasons)]
    if TESTS in parts:
        outcomes = list(parts[TESTS].get("outcomes", {}).items())
        count = {outcome: sum(found == outcome for _, found in outcomes) for _, outcome in outcomes}
        said = ", ".join(f"{n} {outcome.lower()}" for outcome, n in sorted(count.items())) or "no outcome"
        lines.append(f"Tests marked `gpu`: {said}. {parts[TESTS]['reason']}".strip())
        failed = [name for name, outcome in outcomes if outcome in ("FAILED", "ERROR")]
        lines += [f"- {name.partition('::')[2]}: {parts[TESTS]['reasons'].get(name, '')}" for name in failed]
    lines += [found["machine"]] if found["machine"] else []
    return "\n\n".join(lines)


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """Return the results of several calls as those of one; of a part that ran twice, the last."""
    found: dict[str, Any] = {"machine": "", "parts": {}}
    for path in files:
        one = json.loads(path.read_text())
        if "not a result" in one["machine"]:
            sys.exit(f"{path} is of a run on the CPU or of a tiny one, which is no result; give those of a GPU")
        found["machine"] = one["machine"] or found["machine"]
        found["parts"] |= one["parts"]
    return found


def fetch(python: str, folder: Path, data: Path | None, megabytes: float) -> None:
    """Download the wheels of LIBRARIES, as requirements-bench.lock pins them, for a Python on Linux with x86-64.

    With `data`, a zip of images, also write `folder`/images.zip with as many of them as fit into the size.
    """
    lock = (ROOT / "requirements-bench.lock").read_text()
    entries = [re.search(rf"^{name}==.*?[^\\]$", lock, re.MULTILINE | re.DOTALL) for name in LIBRARIES.values()]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(entry[0] for entry in entries if entry))
        file.flush()
        platforms = [word for name in PLATFORMS for word in ("--platform", name)]
        options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms]
        command = [sys.executable, "-m", "pip", "download", "-q", "--require-hashes", *options]
        subprocess.run([*command, "-d", str(folder), "-r", file.name], check=True)
    if data is not None:
        fewer(data, folder / "images.zip", megabytes=megabytes)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size / 2**20:.1f} MiB in all")


def fewer(archive: Path, target: Path, *, megabytes: float) -> None:
    """Copy evenly chosen files of a zip, so many that the copy takes about this size at most."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as copy:
        members = [member for member in source.infolist() if not member.is_dir()]
        share = min(1.0, 1e6 * megabytes / archive.stat().st_size)
        for k, member in enumerate(members):
            if int((k + 1) * share) > int(k * share):
                copy.writestr(member, source.read(member))


def without_gpu(environment: Mapping[str, str]) -> str | None:
    """Return why there is nothing to run, or None if torch finds a GPU."""
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    if subprocess.run(asked, env=environment, stdout=subprocess.PIPE, text=True).stdout.strip() == "True":
        return None
    listed = subprocess.run(
        [*pytest_command(), "-q", "--collect-only"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    if listed.returncode:
        sys.exit(f"{listed.stdout}\nthe tests cannot be collected, see above; with --fetch get what is missing")
    return f"no GPU: {sum('::' in line for line in listed.stdout.splitlines())} tests skipped"


def main() -> None:
    args = parse()
    if args.fetch:
        return fetch(args.fetch, args.wheels, args.data, args.data_megabytes)
    if args.write is not None:
        from generated import write_between

        return write_between(ROOT / "docs" / "performance.md", "gpu", report(merged(args.write)))
    exit_on_sigterm()
    parts = [part for part in PARTS if part.name in args.parts and part.call in (args.call or part.call,)]
    with tempfile.TemporaryDirectory() as site:
        environment = environment_with(Path(site), args.wheels)
        if args.device == "cuda" and (reason := without_gpu(environment)):
            return print(reason)
        found = session(parts, args, environment)
    print(report(found))
    return None


def parse() -> argparse.Namespace:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path(".state/benchmarks/gpu"), help="folder of gpu.json and gpu.md"
    )
    parser.add_argument(
        "--call", type=int, choices=(1, 2, 3), help="only the parts of this call of at most ten minutes"
    )
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--minutes", type=float, default=30.0, help="for all parts together")
    parser.add_argument("--data", type=Path, help="images of part cifar10: a zip or a prepared folder")
    parser.add_argument("--wheels", type=Path, default=ROOT / WHEELS, help="folder of wheels that may be missing here")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --tiny, to see that it runs"
    )
    parser.add_argument("--tiny", action="store_true", help="small networks and few steps")
    parser.add_argument("--fetch", metavar="PYTHON", help="download the wheels for this version of Python, and end")
    parser.add_argument("--data-megabytes", type=float, default=45.0, help="with --fetch: size of the copy of --data")
    parser.add_argument(
        "--write", type=Path, nargs="*", help="gpu.json of the calls: put them into docs/performance.md"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
