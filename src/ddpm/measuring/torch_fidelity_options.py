"""Options of torch-fidelity, which ignores those that it does not know."""

from typing import Any

from ddpm.errors import UserError


def known_options(**options: Any) -> dict[str, Any]:
    """Return the options. Raises UserError for unknown ones, which torch-fidelity would ignore."""
    from torch_fidelity.defaults import DEFAULTS
    from torch_fidelity.version import __version__

    if unknown := sorted(options.keys() - DEFAULTS.keys()):
        raise UserError(
            f"torch-fidelity {__version__} does not know its options {', '.join(unknown)}; install the version in "
            "requirements.lock"
        )
    return options
