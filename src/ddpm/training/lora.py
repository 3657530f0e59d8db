"""Low-rank adapters (Hu et al. 2021): small matrices that are trained in place of the weights taken over from a parent.

The adapted network exists only in a training. Its checkpoints contain the adapters; a model file has the sum.
"""

import os
from collections.abc import Collection, Mapping
from importlib.util import find_spec

from torch import Tensor, nn

from ddpm.errors import UserError
from ddpm.training.settings import Lora

_BASE, _A, _B = ".base_layer.", ".lora_A.default.", ".lora_B.default."
"""Parts of the names that peft gives to the weights of an adapted layer."""


def adapt(network: nn.Module, whole: Collection[str], lora: Lora) -> None:
    """Freeze the layers whose tensors are all in `whole`; give those that are linear or convolutions an adapter each.

    All other layers are trained in full. An adapter adds nothing at first. Random numbers are torch's global ones.
    Raises UserError if peft is not installed.
    """
    taken = {
        name: layer
        for name, layer in network.named_modules()
        if (own := {f"{name}.{key}" for key, _ in layer.named_parameters(recurse=False)}) and own <= set(whole)
    }
    targets = [name for name, layer in taken.items() if isinstance(layer, nn.Linear | nn.Conv2d)]
    if not targets:
        return
    in_full = [p for name, layer in network.named_modules() if name not in taken for p in layer.parameters(False)]
    require_peft()
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):  # of what peft imports
        os.environ.setdefault(variable, "1")
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds to import, only if needed

    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
    inject_adapter_in_model(config, network)  # freezes everything but the adapters
    for parameter in in_full:
        parameter.requires_grad_(True)


def require_peft() -> None:
    """Raise UserError if peft is not installed."""
    if find_spec("peft") is None:
        raise UserError(
            "train.lora.rank is above 0, which needs peft, which is not installed here; run "
            '`pip install "ddpm-factory[lora]"`, or set rank to 0'
        )


def merged(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Return the weights of an ordinary network by name: each adapted weight W becomes W + (alpha / rank) B A."""
    plain = {name.replace(_BASE, "."): tensor for name, tensor in weights.items() if not is_adapter(name)}
    for name, a in weights.items():
        if _A in name:
            own, b = plain[name.replace(_A, ".")], weights[name.replace(_A, _B)]
            change = (b.flatten(1) @ a.flatten(1)).view_as(own)  # [c_out, rank] times [rank, c_in h w]
            plain[name.replace(_A, ".")] = own + lora.alpha / lora.rank * change
    return plain


def is_adapter(name: str) -> bool:
    """Return whether a parameter of this name belongs to an adapter and not to the network itself."""
    return _A in name or _B in name
