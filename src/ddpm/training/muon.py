"""Muon: every weight matrix moves by an orthogonal matrix, along the momentum of its gradient."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ddpm.training.sharding import placed_like, whole

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""a, b, c of the quintic iteration: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/."""
ITERATIONS = 5
_TOGETHER_BYTES = 64 << 20
"""Of float32 matrices that are gathered and orthogonalised at a time."""
MATCH_ADAM = 0.2
"""Root mean square of a weight's move under Adam, in learning rates: Liu et al. 2025 (Moonlight), Sec. 2.2."""


class Muon(AdamW):
    """Muon (Jordan et al. 2024) for the kernels of convolutions, as matrices [C_out, C_in H W], and the matrices of
    linear layers; AdamW for all else: biases, norms, label embeddings, and the first and the last layer.

    Moves are scaled to those of Adam (Liu et al. 2025, Eq. 4), so that one learning rate suits both. The iteration
    computes in `dtype`. Its result depends on the whole matrix: a sharded one is gathered first, and processes that
    share a training (DDP) must round alike, as machines of one kind with as many threads do.
    """

    def __init__(self, network: nn.Module, *, first_and_last: Iterable[nn.Module], dtype: torch.dtype, **adam: Any):
        apart = {id(p) for module in first_and_last for p in module.parameters()}
        embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
        parameters = list(network.parameters())
        self._matrices = {id(p) for p in parameters if p.ndim >= 2} - apart - embeddings
        self._dtype = dtype
        super().__init__(parameters, **adam)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if id(p) in self._matrices and p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for shape, parameters in alike.items():
                step = max(1, _TOGETHER_BYTES // (4 * shape.numel()))
                for start in range(0, len(parameters), step):
                    self._move(parameters[start : start + step], lr=group["lr"], decay=group["weight_decay"])
        super().step()

    def _move(self, parameters: list[Tensor], *, lr: float, decay: float) -> None:
        """Parameters of one shape, together: many small matrices are one large piece of work."""
        matrices = torch.stack([whole(self._direction(p)).flatten(1) for p in parameters])
        size = MATCH_ADAM * max(matrices.shape[1:]) ** 0.5
        for p, move in zip(parameters, orthogonal(matrices.to(self._dtype)), strict=True):
            p.mul_(1 - lr * decay).add_(placed_like(move.reshape(p.shape).to(p.dtype), p), alpha=-lr * size)
            p.grad = None  # AdamW passes over what has no gradient

    def _direction(self, p: Tensor) -> Tensor:
        """The gradient's momentum, with Nesterov's look ahead."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)  # torch's AdamW expects one in every restored state
            state["exp_avg"] = torch.zeros_like(p)
        state["step"] += 1
        return torch.lerp(p.grad, state["exp_avg"].lerp_(p.grad, 1 - MOMENTUM), MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """U V^T, nearly, of each U S V^T in [K,M,N]: singular values within 0.6 and 1.3.

    Except those that were below a hundredth of the matrix's norm: five iterations do not raise these so far.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
