"""Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) of torch, without torch's compiler.

torch's own optimizers import `torch._dynamo`, and sympy with it, at their first step: 1.2 seconds in which a stage that
compiles nothing does nothing (docs/performance.md). Their arithmetic is inside those wrappers, and is the same here.
"""

from inspect import unwrap

import torch
from torch.optim import Optimizer


class _Uncompiled(Optimizer):
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class Adam(_Uncompiled, torch.optim.Adam):
    """`torch.optim.Adam`."""


class AdamW(_Uncompiled, torch.optim.AdamW):
    """`torch.optim.AdamW`."""
