"""How long torch's threads stay awake while they wait for each other."""

from collections.abc import MutableMapping

_SPINS = "1000"


def wait_briefly(environment: MutableMapping[str, str]) -> None:
    """Make waiting threads check for work for about 20 microseconds before they sleep, unless a policy is set.

    OpenMP reads the variables when torch is imported. A step has hundreds of short parallel parts. Waking a sleeping
    thread for each makes a step of small images 1.2 times as long, and waiting awake as long as is usual makes it up to
    30 times as long beside busy processes. Looking about as long as waking takes costs at most twice the better choice
    (docs/performance.md). GNU's OpenMP reads both variables, others the first, which sends threads to sleep at once.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
