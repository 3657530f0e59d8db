"""Muon: an optimizer whose update of each weight matrix is the momentum of its gradient, made orthogonal."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW

from ddpm.compute.processes import processes, rank
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
    iteration computes in `dtype`. Its result depends on the whole matrix, so a sharded matrix is gathered first. Each
    process orthogonalises only the matrices that it owns, and sends their moves to the others: the same bits as if each
    computed all.
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
        for turn in self._turns():
            moves: dict[int, Tensor] = {}
            for owner, stack in turn:
                directions = [whole(self._direction(p)).flatten(1) for p in stack.parameters]
                if owner == rank():
                    moves[owner] = orthogonal(torch.stack(directions).to(self._dtype)).contiguous()
            for owner, stack in turn:
                received = moves.pop(owner, None)
                if received is None:
                    received = torch.empty(stack.shape, dtype=self._dtype, device=stack.parameters[0].device)
                if processes() > 1:
                    dist.broadcast(received, src=owner)
                self._move(stack, received)
        super().step()

    def _turns(self) -> list[list[tuple[int, "_Stack"]]]:
        """Return the stacks in turns: in a turn every process owns at most one, so that few are in memory at a time.

        The largest are dealt first, each to the process with the least work so far.
        """
        stacks = []
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if id(p) in self._matrices and p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for shape, parameters in alike.items():
                step = max(1, _TOGETHER_BYTES // (4 * shape.numel()))
                for start in range(0, len(parameters), step):
                    stacks.append(_Stack(parameters[start : start + step], group["lr"], group["weight_decay"]))
        work, turns = [0] * processes(), list[list[tuple[int, _Stack]]]()
        taken = [0] * processes()
        for stack in sorted(stacks, key=lambda each: -each.products):
            owner = work.index(min(work))
            work[owner] += stack.products
            taken[owner] += 1
            if taken[owner] > len(turns):
                turns.append([])
            turns[taken[owner] - 1].append((owner, stack))
        return turns

    def _move(self, stack: "_Stack", moves: Tensor) -> None:
        size = MATCH_ADAM * max(stack.shape[1:]) ** 0.5
        skipped = self._found_inf(moves.device) == 1
        keep = torch.full((), 1 - stack.lr * stack.decay, device=moves.device).masked_fill(skipped, 1)
        for p, move in zip(stack.parameters, moves.masked_fill(skipped, 0), strict=True):
            placed = local(placed_like(move.reshape(p.shape).to(p.dtype), p))
            local(p).mul_(keep).add_(placed, alpha=-stack.lr * size)
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


@dataclass(frozen=True)
class _Stack:
    """Weights of one shape, which are orthogonalised together: one large operation is faster than many small ones."""

    parameters: list[Tensor]
    lr: float
    decay: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of matrices, rows, columns."""
        first = self.parameters[0]
        return len(self.parameters), first.shape[0], first.shape[1:].numel()

    @property
    def products(self) -> int:
        """Multiplications of an iteration, up to a factor."""
        return math.prod(self.shape) * min(self.shape[1:])


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
