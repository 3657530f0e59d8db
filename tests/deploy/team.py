"""The servers of deploy/compose*.yaml without containers: the same commands and environments as processes here.

Everything is read from the compose files. A host name becomes 127.0.0.1, a port a free one, a volume or a mounted file
a path in a folder of the test. What an image brings is taken from the system: PostgreSQL and Redis from Debian's
packages, rclone and all else from this environment.
"""

import functools
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML
from waiting import HANG_SECONDS, wait_for

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SEVERAL_FILES = ("compose.yaml", "compose.several.yaml")
_PORTS = r"\b(5432|9000|5000|4200|5001|4210|8080|6379|9090)\b"
_POSTGRES = Path("/usr/lib/postgresql")
_PACKAGES = {
    "initdb": "postgresql",
    "psql": "postgresql-client",
    "redis-server": "redis-server",
    "nc": "netcat-openbsd",
}


@functools.cache
def missing_packages() -> str:
    """The sentence with which a test is skipped where Debian's packages are not installed; empty if they are."""
    missing = sorted({package for program, package in _PACKAGES.items() if _program(program) is None})
    return f"needs Debian packages: apt-get install {' '.join(missing)}" if missing else ""


def _program(name: str) -> str | None:
    """The path of a program; Debian keeps those of PostgreSQL's server out of PATH."""
    of_postgres = sorted(_POSTGRES.glob(f"*/bin/{name}"))
    return str(of_postgres[-1]) if of_postgres else shutil.which(name)


def read(name: str) -> dict[str, Any]:
    """A compose file with its anchors resolved; a value with the tag `!reset` is empty."""
    yaml = YAML(typ="safe")
    yaml.constructor.add_constructor("!reset", lambda *_: [])
    found: dict[str, Any] = yaml.load(DEPLOY / name)
    return found


def services(*files: str) -> dict[str, dict[str, Any]]:
    """The services of these files, where a later one changes what an earlier one says, as compose merges them."""
    merged: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, service in read(file)["services"].items():
            base = (
                read(service["extends"]["file"])["services"][service["extends"]["service"]]
                if "extends" in service
                else {}
            )
            merged[name] = _merged(_merged(base, merged.get(name, {})), service)
    return merged


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = {key: base[key] | over[key] for key in ("environment", "depends_on") if key in base and key in over}
    return base | over | both


@dataclass
class Team:
    """The servers, each started by its name in the compose files."""

    folder: Path
    project: Path
    """What the worker's container has at /project."""
    secrets: dict[str, str]
    files: tuple[str, ...] = ("compose.yaml",)
    ports: dict[str, int] = field(default_factory=dict)
    hosts: dict[str, str] = field(default_factory=dict)
    """Addresses of services that do not listen on 127.0.0.1, because several have one port."""
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.services = services(*self.files)
        self.folder.chmod(0o755)  # PostgreSQL runs as another user

    def address(self, port: str) -> str:
        """Host and port under which the service that listens on this port in its container is reached here."""
        return f"127.0.0.1:{self._port(port)}"

    def environment(self, name: str) -> dict[str, str]:
        """The environment of a service, and what a process needs of this machine."""
        own = {key: self._here(name, str(value)) for key, value in self.services[name].get("environment", {}).items()}
        venv = Path(sys.executable).parent
        machine = {key: os.environ[key] for key in ("LANG", "OMP_NUM_THREADS", "DDPM_TEST_MARK") if key in os.environ}
        own["HOME"] = str(self.volume("home"))  # /tmp of a container is its own
        if name == "postgres" or "PGHOST" in own:
            own["PGHOST"] = "127.0.0.1"
        return machine | {"PATH": f"{venv}{os.pathsep}{os.environ['PATH']}"} | own

    def start(self, *names: str) -> None:
        """Start the services and wait until each is healthy."""
        for name in names:
            if name == "postgres":
                self._start_postgres()
            else:
                self.running[name] = self._popen(name, self._command(name), cwd=self._folder_of(name))
            self.wait_healthy(name)

    def run(self, name: str, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a service that ends, with these words behind its command (or behind its entrypoint)."""
        service = self.services[name]
        words = [*service.get("entrypoint", []), *(more or service.get("command", []))]
        return self.run_as(name, *words, **variables)

    def run_as(self, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the environment of a service."""
        return subprocess.run(
            [self._here(name, word) for word in words],
            cwd=self._folder_of(name),
            env=self.environment(name) | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG_SECONDS,
        )

    def wait_healthy(self, name: str) -> None:
        check = self.services[name].get("healthcheck", {}).get("test")
        if check is None:
            return
        kind, *words = check
        words = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        try:
            wait_for(lambda: self.run_as(name, *words).returncode == 0, every=0.3, process=self.running[name])
        except AssertionError as error:
            raise AssertionError(f"{name} is not healthy: {error}; it wrote: {self.log(name)[-3000:]}") from None

    def stop(self, name: str, *, kill: bool = False) -> None:
        """Stop a service as `docker compose stop` does, or kill all its processes at once, as `docker compose kill`."""
        process = self.running.pop(name)
        if kill:
            _kill_with_children(process)
        elif process.poll() is None:
            os.killpg(process.pid, signal.SIGINT if name == "postgres" else signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        _kill_group(process)

    def restart(self, name: str, *, kill: bool = False) -> None:
        self.stop(name, kill=kill)
        self.start(name)

    def revive(self) -> None:
        """Start what has ended by itself again, as `restart: unless-stopped` does."""
        for name in [name for name, process in self.running.items() if process.poll() is not None]:
            assert self.services[name]["restart"] == "unless-stopped", name
            self.start(name)

    def close(self) -> None:
        for name in [name for name in self.running if name != "postgres"] + ["postgres"]:
            if name in self.running:
                self.stop(name)

    def log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def volume(self, name: str) -> Path:
        """The folder of a named volume, or of a mounted one."""
        path = self.folder / name
        if not path.exists():
            path.mkdir(parents=True)
        return path

    def _popen(self, name: str, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Where the tests run in the background of a shell, Ctrl-C is ignored, and by all that they start.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                **options,
            )

    def _command(self, name: str) -> list[str]:
        service = self.services[name]
        words = [*service.get("entrypoint", []), *service["command"]]
        return [self._here(name, word).replace("valkey-server", "redis-server") for word in words]

    def _folder_of(self, name: str) -> Path:
        folder = self.services[name].get("working_dir")
        return Path(self._here(name, folder)) if folder else self.volume("home")

    def _start_postgres(self) -> None:
        service = "postgres"
        data = self.volume("postgres")
        owner = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        as_owner = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
        is_new = not (data / "PG_VERSION").exists()
        if is_new:
            secret = self.folder / "password"
            secret.write_text(self.secrets["POSTGRES_PASSWORD"])
            if owner:
                for path in (data, secret):
                    os.chown(path, owner.pw_uid, owner.pw_gid)
            initdb = [
                _program("initdb"),
                "-D",
                data,
                "-U",
                "postgres",
                "-A",
                "scram-sha-256",
                "--no-sync",
                "--pwfile",
                secret,
                "-E",
                "UTF8",
            ]
            subprocess.run([str(word) for word in initdb], check=True, capture_output=True, cwd=data, **as_owner)
        port = str(self._port("5432"))
        command = [str(_program("postgres")), "-D", str(data), "-h", "127.0.0.1", "-p", port, "-k", str(data)]
        self.running[service] = self._popen(service, command, cwd=data, **as_owner)
        if not is_new:
            return
        self.wait_healthy(service)
        for script in sorted((DEPLOY / "postgres").glob("*.sh")):
            made = self.run_as(
                service,
                "bash",
                str(script),
                PGHOST="127.0.0.1",
                PGPORT=port,
                PGPASSWORD=self.secrets["POSTGRES_PASSWORD"],
            )
            assert made.returncode == 0, made.stdout

    def _here(self, name: str, text: str) -> str:
        """A text of a service with paths, hosts, ports and variables of this machine."""
        text = self._served_here(_moved(text, self._mounts(name)), own=self.hosts.get(name, "127.0.0.1"))
        text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: self.secrets[found[1]], text)
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
        return text.replace("$$", "$").replace("valkey-", "redis-")

    def _served_here(self, text: str, *, own: str = "127.0.0.1") -> str:
        names = "|".join(map(re.escape, self.services))
        text = re.sub(r"\b(0\.0\.0\.0|127\.0\.0\.1)\b", own, text)
        text = re.sub(rf"\b({names})(?=:\d)", "127.0.0.1", text)
        return re.sub(_PORTS, lambda found: str(self._port(found[1])), text)

    def _port(self, inside: str) -> int:
        if inside not in self.ports:
            self.ports[inside] = next(port for port in iter(_random_port, None) if _is_free(port))
        return self.ports[inside]

    def _mounts(self, name: str) -> list[tuple[str, Path]]:
        """What the container sees, and where it is here: mounted files and folders, volumes, and files of the image."""
        found = [(f"/opt/{path.name}", path) for path in DEPLOY.glob("*.py")]
        mounts = [mount.removesuffix(":ro").split(":") for mount in self.services[name].get("volumes", [])]
        mounts = [mount for mount in mounts if mount[0] != "/dev/null"]  # hides a file, which here is elsewhere
        for source, _ in [mount for mount in mounts if mount[0].startswith("../")]:
            shutil.copy(self.project / source.removeprefix("../"), self.volume("home"))  # where the image works
        mounts = [mount for mount in mounts if not mount[0].startswith("../")]
        for source, inside in mounts:
            if not (DEPLOY / source).is_file():
                found.append((inside, self.project if source == ".." else self.volume(source.removeprefix("./"))))
        folders = list(found)
        for source, inside in mounts:
            if (DEPLOY / source).is_file():
                outside = self.folder / Path(source).name
                if not outside.exists():
                    outside.write_text(self._served_here(_moved((DEPLOY / source).read_text(), folders)))
                found.append((inside, outside))
        return sorted(found, key=lambda pair: -len(pair[0]))


def _random_port() -> int:
    """None of those that Linux gives to clients (from 32768), one of which could have it before the server starts."""
    return random.randrange(20000, 32768)


def _is_free(port: int) -> bool:
    with socket.socket() as taken:
        return taken.connect_ex(("127.0.0.1", port)) != 0


def _moved(text: str, places: list[tuple[str, Path]]) -> str:
    """The text with each path of a container replaced by the one here."""
    for inside, outside in places:
        text = re.sub(rf"(?<![\w/.]){re.escape(inside)}(?![\w-])", lambda _, path=str(outside): path, text)
    return text


def _kill_with_children(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a process and all that it started, which for PostgreSQL are in sessions of their own."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        first.suspend()  # it starts no further one
        for each in (all_of_them := [first, *first.children(recursive=True)]):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(all_of_them)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
    time.sleep(0.1)
