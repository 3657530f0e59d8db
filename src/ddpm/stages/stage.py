"""The common part of all stages: read paths and params.yaml, own the workspace, start workers, choose the device."""

import argparse
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from ddpm.compute.launch import run_in_workers
from ddpm.params import Params, load
from ddpm.pipeline.workspace import run_stage
from ddpm.settings import as_dict
from ddpm.tracker import flat

if TYPE_CHECKING:
    import torch

    from ddpm.compute import hardware
    from ddpm.data.reading.dataset import Split


class Stage:
    """One run of a stage: the paths of its command in dvc.yaml, its parameters, its device and its precision."""

    def __init__(self, paths: argparse.Namespace) -> None:
        self.paths = paths
        """A Path for each option of the command."""
        self.params: Params = load()

    @cached_property
    def device(self) -> "torch.device":
        """The device of runtime.device. Read it before any computation, because it also sets runtime.deterministic."""
        from ddpm.compute import hardware

        hardware.set_determinism(self.params.runtime.deterministic)
        return hardware.choose_device(self.params.runtime.device)

    def precision(self, size: int) -> "hardware.Precision":
        """Return the precision of runtime.precision for images of size x size pixels."""
        from ddpm.compute import hardware

        return hardware.choose_precision(self.params.runtime.precision, self.device, size)

    def measuring(self) -> dict[str, Any]:
        """Return the parameters by which a finished model is sampled and measured, by their names in the tracker."""
        sections = {name: as_dict(getattr(self.params, name)) for name in ("sample", "features", "evaluate")}
        del sections["evaluate"]["during"]  # it measures the training
        return flat(**sections)

    def split(self, name: Literal["train", "test"]) -> "Split":
        """Return a split of the prepared images in `paths.prepared`."""
        from ddpm.data.reading.dataset import read_split

        return read_split(self.paths.prepared, name, self.params.runtime)


def execute(main: Callable[[Stage], None], *options: str, in_workers: bool = False) -> NoReturn:
    """Run a stage's `main` and exit. `options` are the paths in its command, all required.

    With `in_workers`, `main` runs in `runtime.processes` processes.
    """

    def stage_in_workspace() -> None:
        stage = Stage(_parsed(main.__module__, options))
        if in_workers:
            run_in_workers(lambda: main(stage), stage.params.runtime)
        else:
            main(stage)

    run_stage(stage_in_workspace)


def _parsed(module: str, options: tuple[str, ...]) -> argparse.Namespace:
    import sys

    parser = argparse.ArgumentParser(description=sys.modules[module].__doc__)
    for option in options:
        parser.add_argument(f"--{option}", type=Path, required=True)
    return parser.parse_args()
