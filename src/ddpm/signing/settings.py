"""Whose signature a version needs before it is used: section `signing` of params.yaml."""

from ddpm.settings import require_named, section


@section
class Signing:
    """How signatures of versions are verified. The key that signs is named by the environment or by `ddpm sign`."""

    verify_key: str | None
    """File with a public key (elliptic curve, PEM). `ddpm serve`, the canary and the other commands refuse a version
    that its owner has not signed; null: no signature is asked for."""

    def __post_init__(self) -> None:
        require_named(self, "verify_key")
