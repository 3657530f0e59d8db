"""Write deploy/.env with a random secret for each one that the compose files need: `python deploy/new_secrets.py`.

Secrets that the file has already stay as they are, so the command can be repeated after an upgrade.
"""

import os
import re
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ENV = FOLDER / ".env"
_REQUIRED = re.compile(r"\$\{(\w+):\?")
_BYTES = 24


def names() -> list[str]:
    """Return the names of all secrets, in the order of the compose files."""
    found = [name for path in sorted(FOLDER.glob("compose*.yaml")) for name in _REQUIRED.findall(path.read_text())]
    return list(dict.fromkeys(found))


def main() -> None:
    text = ENV.read_text() if ENV.exists() else ""
    there = set(re.findall(r"^(\w+)=.", text, re.MULTILINE))
    missing = [name for name in names() if name not in there]
    if text and not text.endswith("\n"):
        text += "\n"
    text += "".join(f"{name}={secrets.token_hex(_BYTES)}\n" for name in missing)
    if "TEAM_USER" not in there:
        text += f"TEAM_USER={os.getuid()}:{os.getgid()}\n"
    part = ENV.with_suffix(".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    part.replace(ENV)
    print(f"{ENV}: {len(missing)} new secrets, {len(names()) - len(missing)} kept", file=sys.stderr)


if __name__ == "__main__":
    main()
