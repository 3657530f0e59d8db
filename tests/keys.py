"""Keys to sign with, made anew for each test."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class KeyPair:
    private: Path
    public: Path


def key_pair(folder: Path, name: str, *, password: str | None = None) -> KeyPair:
    """An elliptic-curve key as `openssl ecparam -genkey` makes it; with a password, the private file is encrypted."""
    key, pair = ec.generate_private_key(ec.SECP256R1()), KeyPair(folder / f"{name}.pem", folder / f"{name}.pub")
    hidden = (
        serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password.encode())
    )
    form = serialization.Encoding.PEM
    pair.private.write_bytes(key.private_bytes(form, serialization.PrivateFormat.PKCS8, hidden))
    public = key.public_key().public_bytes(form, serialization.PublicFormat.SubjectPublicKeyInfo)
    pair.public.write_bytes(public)
    return pair
