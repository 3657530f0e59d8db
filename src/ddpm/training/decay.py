"""The parameters to which weight decay applies: weight matrices and kernels."""

from typing import Any

from torch import nn


def parameter_groups(network: nn.Module) -> list[dict[str, Any]]:
    """Return an optimizer's groups: the parameters that decay, and those that do not, each if there are any.

    Biases, normalisations and label embeddings do not. Frozen parameters are in no group.
    """
    embeddings = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    trained = [p for p in network.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.ndim >= 2 and id(p) not in embeddings]
    others = [p for p in trained if p.ndim < 2 or id(p) in embeddings]
    groups: list[dict[str, Any]] = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
