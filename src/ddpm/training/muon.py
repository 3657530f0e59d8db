"""Muon: an optimizer whose update of each weight matrix is the momentum of its gradient, made orthogonal."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ddpm.networks.ema import local
from ddpm.training.decay import parameter_groups
from ddpm.training.sharding import placed_like, whole

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""a, b, c of the quintic iteration: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/."""
ITERATIONS = 5
_TOGETHER_BYTES = 64 << 20
"""Size of the float32 matrices that are gathered and orthogonalised at a time."""
MATCH_ADAM = 0.2
"""Root mean square of Adam's update of a weight, in learning rates: Liu et al. 2025 (Moonlight), Sec. 2.2."""


class Muon(AdamW):
    """Muon (Jordan et al. 2024) for the kernels of convolutions, as matrices [C_out, C_in H W], and the matrices of
    linear layers; AdamW for all other parameters: biases, norms, label embeddings, and the first and the last layer.

    Updates are scaled to the size of Adam's (Liu et al. 2025, Eq. 4), so that one learning rate suits both. The
    iteration computes in `dtype`. Its result depends on the whole matrix: a sharded matrix is gathered first, and the
    processes of a training (DDP) must round alike, so they need machines of one kind and the same number of threads.
    """

    def __init__(self, network: nn.Module, *, first_and_last: Iterable[nn.Module], dtype: torch.dtype, **adam: Any):
        apart = {id(p) for module in first_and_last for p in module.parameters()}
        embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
        self._matrices = {id(p) for p in network.parameters() if p.ndim >= 2} - apart - embeddings
        self._dtype = dtype
        super().__init__(parameter_groups(network), **adam)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the weights. As in the fused AdamW, nothing changes if the attribute `found_inf` (float32 []) is 1."""
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
        """Update parameters of one shape together, because one large operation is faster than many small ones."""
        matrices = torch.stack([whole(self._direction(p)).flatten(1) for p in parameters])
        size = MATCH_ADAM * max(matrices.shape[1:]) ** 0.5
        skipped = self._found_inf(matrices.device) == 1
        keep = torch.full((), 1 - lr * decay, device=matrices.device).masked_fill(skipped, 1)
        moves = orthogonal(matrices.to(self._dtype)).masked_fill(skipped, 0)
        for p, move in zip(parameters, moves, strict=True):
            local(p).mul_(keep).add_(local(placed_like(move.reshape(p.shape).to(p.dtype), p)), alpha=-lr * size)
            p.grad = None  # AdamW skips parameters without a gradient

    def _direction(self, p: Tensor) -> Tensor:
        """Return Nesterov momentum of the gradient. The momentum of a skipped step stays what it was."""
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), device=p.device)  # torch's AdamW expects it in every restored state
            state["exp_avg"] = torch.zeros_like(p)
        found_inf, momentum, grad = self._found_inf(p.device), local(state["exp_avg"]), local(p.grad)
        state["step"] += 1 - found_inf
        momentum.copy_(torch.where(found_inf == 1, momentum, momentum.lerp(grad, 1 - MOMENTUM)))
        local(p.grad).copy_(torch.lerp(grad, momentum, MOMENTUM))
        return p.grad

    def _found_inf(self, device: torch.device) -> Tensor:
        return getattr(self, "found_inf", torch.zeros((), device=device))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return approximately U V^T for each matrix U S V^T in [K,M,N], with singular values between 0.6 and 1.3.

    Singular values below a hundredth of the matrix's norm stay smaller: five iterations are too few for them.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
