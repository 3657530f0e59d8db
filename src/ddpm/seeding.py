"""Derive seeds from a position, so that random numbers do not depend on batch size, order or interruption."""

from hashlib import blake2b


def seed_of(*position: int | str) -> int:
    """Return a 63-bit seed for a position such as ("noise", seed, images_seen); distinct positions are independent."""
    digest = blake2b(repr(position).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
