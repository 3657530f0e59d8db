"""Sign the files of a folder with an elliptic-curve key, and verify them, by the library model-signing.

The signature is a file in Sigstore's bundle format (https://docs.sigstore.dev/about/bundle/): a list of all files of
the folder with their SHA-256, signed with ECDSA. No service of Sigstore takes part, so nothing uses the network.
"""

import base64
import hashlib
import json
import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ddpm.errors import UserError

if TYPE_CHECKING:
    from model_signing.hashing import Config

KEY_VARIABLE = "DDPM_SIGNING_KEY"
"""Environment variable: the path of the private key."""
PASSWORD_VARIABLE = "DDPM_SIGNING_PASSWORD"
"""Environment variable: the password of the private key, if the file is encrypted."""


@dataclass(frozen=True)
class PrivateKey:
    """A file with an elliptic-curve key in PEM form."""

    path: Path
    password: str | None = field(default=None, repr=False)
    """None: the file is not encrypted."""


def private_key(path: Path | None = None) -> PrivateKey | None:
    """Return the key at this path, else the one that KEY_VARIABLE names; None without both."""
    named = path or os.environ.get(KEY_VARIABLE)
    return PrivateKey(Path(named), os.environ.get(PASSWORD_VARIABLE)) if named else None


def sign(folder: Path, signature: Path, key: PrivateKey) -> list[str]:
    """Sign all files of the folder, write the signature to a path outside of it, and return the names of the files.

    Raises UserError if the key cannot be used, or without model-signing.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from model_signing import signing

    password = None if key.password is None else key.password.encode()
    try:
        # The library declares a string, and hands it to a function that takes bytes only.
        config = signing.Config().use_elliptic_key_signer(private_key=key.path, password=password)  # type: ignore[arg-type]
    except (OSError, TypeError, ValueError, AttributeError, UnsupportedAlgorithm) as error:  # of another kind, too
        raise UserError(
            f"{key.path} cannot sign ({error}), expected a private elliptic-curve key in PEM form; correct "
            f"{KEY_VARIABLE}, or {PASSWORD_VARIABLE} for an encrypted key"
        ) from None
    config.set_hashing_config(_hashing()).sign(folder, signature)
    return sorted(_hashes(folder))


def require_signed(folder: Path, signature: Path, key: Path, *, called: str) -> list[str]:
    """Return the names of the folder's files, all signed by the owner of this public key, and no file is missing.

    Raises UserError, which calls the folder `called`, for anything else: the key, the signature or a file is another.
    """
    _require_library()
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from model_signing import verifying

    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, TypeError, ValueError, AttributeError, UnsupportedAlgorithm) as error:
        raise UserError(
            f"{key} cannot verify {called} ({error}), expected a public elliptic-curve key in PEM form; name its file"
        ) from None
    try:
        config.set_hashing_config(_hashing()).verify(folder, signature)
    except InvalidSignature:
        raise UserError(f"the signature of {called} was changed or is not by the key {key}; {_REMEDY}") from None
    except Exception as error:  # whatever the library trips over in a file from outside: it is not verified
        fault = _difference(folder, signature) if str(error).startswith("Signature mismatch") else None
        raise UserError(
            f"{called} is not what the owner of the key {key} signed: {fault or _other_key(error)}; {_REMEDY}"
        ) from None
    return sorted(_hashes(folder))


_REMEDY = "restore it from a backup, or choose another version of `ddpm versions`"


def _require_library() -> None:
    if find_spec("model_signing") is None:
        raise UserError(
            'signatures need model-signing, which is not installed here; run `pip install "ddpm-factory[sign]"`'
        )


def _hashing() -> "Config":
    """Return how files are hashed: all of them, also those that the library leaves out as git's own."""
    from model_signing import hashing

    return hashing.Config().use_file_serialization().set_ignored_paths(paths=(), ignore_git_paths=False)


def _other_key(error: Exception) -> str:
    if "Key mismatch" in str(error):
        return "another key signed it"
    return f"its signature cannot be read ({type(error).__name__}: {error})"


def _difference(folder: Path, signature: Path) -> str:
    """Return which files differ from those in the signature's list, after the signature itself was verified."""
    payload = json.loads(base64.b64decode(json.loads(signature.read_text())["dsseEnvelope"]["payload"]))
    signed = {file["name"]: file["digest"] for file in payload["predicate"]["resources"]}
    found = _hashes(folder)
    kinds = {
        "changed": [name for name in found.keys() & signed.keys() if found[name] != signed[name]],
        "missing": signed.keys() - found.keys(),
        "added": found.keys() - signed.keys(),
    }
    return "; ".join(f"{kind}: {', '.join(sorted(names))}" for kind, names in kinds.items() if names)


def _hashes(folder: Path) -> dict[str, str]:
    """Map each file of the folder, by its path in it, to its SHA-256."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
