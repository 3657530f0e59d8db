"""The shape of samples: [N, C, *shape] is N samples of C channels over any number of dimensions."""

from torch import Tensor


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """Reshape one value per sample, [N], to [N, 1, ..., 1], which broadcasts against samples x [N, C, *shape].

    A single value for all samples, [], broadcasts already; it is returned unchanged.
    """
    return values if values.ndim == 0 else values.view(-1, *(1,) * (x.ndim - 1))


def within_sample(x: Tensor) -> tuple[int, ...]:
    """Return all dimensions of x [N, C, *shape] but the first."""
    return tuple(range(1, x.ndim))
