"""Seeds as functions of a position, so that randomness does not depend on batch, order or interruption."""

from hashlib import blake2b


def seed_of(*position: int | str) -> int:
    """A 63-bit seed for a position such as ("noise", seed, images_seen); distinct positions give independent seeds."""
    digest = blake2b(repr(position).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
