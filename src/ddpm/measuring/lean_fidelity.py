"""torch-fidelity without torchvision, which it imports for data sets and extractors that nobody here asks for.

torchvision brings torch's compiler with it: half of what importing torch-fidelity costs (docs/performance.md).
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_LEFT_OUT = ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional")


class _NoDataset:
    """What torch-fidelity derives its own CIFAR and STL data sets from while torchvision is left out."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("torch-fidelity was imported without torchvision, so it has no data sets of its own")


class _Later(ModuleType):
    """Stands for a module until something of it is used; then it is imported."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # a package, so that its modules are looked for in sys.modules

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("CIFAR10", "CIFAR100", "STL10"):
            return _NoDataset
        return getattr(import_module(self.__name__), name)


def import_torch_fidelity() -> None:
    """Import the package once; afterwards `from torch_fidelity… import …` is cheap, and torchvision imports as ever."""
    if "torch_fidelity" in sys.modules or "torchvision" in sys.modules:
        return
    stand_ins = {name: _Later(name) for name in _LEFT_OUT}
    for name, module in stand_ins.items():
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(stand_ins[parent], child, module)
    sys.modules.update(stand_ins)
    try:
        import torch_fidelity  # noqa: F401
    finally:
        for name in stand_ins:
            del sys.modules[name]
