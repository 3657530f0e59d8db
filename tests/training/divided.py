"""A short training, in one part or divided; tests run it in one process and in several."""

import dataclasses
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ddpm.compute.hardware import Precision
from ddpm.compute.processes import joined, processes, rank, together
from ddpm.diffusion.schedules import make_schedule
from ddpm.networks.blocks import Stage
from ddpm.networks.unet import AUGMENTATION, UNet
from ddpm.params import load as load_params
from ddpm.training import checkpoint
from ddpm.training.augmentation import numbers_in
from ddpm.training.batches import Batches
from ddpm.training.loop import State, Step, new_state, train
from ddpm.training.lora import adapt
from ddpm.training.methods.diffusion import Diffusion
from ddpm.training.settings import Augment, Lora, Train
from ddpm.training.sharding import Gradients, Parallel, compile_steps, whole
from ddpm.training.state_pieces import tensors_of
from ddpm.training.times import make_times

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
BATCH = 10
SETTINGS = dataclasses.replace(
    PARAMS.train,
    images=8 * BATCH,
    batch_size=BATCH,
    warmup_images=2 * BATCH,
    decay_images=2 * BATCH,
    ema_halflife_images=100,
    grad_clip=1e9,  # a wrong scale of the gradient would be hidden by clipping
    flip=True,
    augment=Augment(probability=0.5, transforms=("flip", "scale", "rotate", "stretch", "shift")),
    time_sampling="importance",
    label_dropout=0.3,
)
LEARNED = dataclasses.replace(PARAMS.objective, learned_variance=True)
T = 4
MUON = dataclasses.replace(SETTINGS, optimizer="muon")
ADAPTERS = dataclasses.replace(SETTINGS, start="another", lora=Lora(rank=2, alpha=4.0))
DIVISIONS: dict[str, tuple[Parallel, int | None, Train]] = {
    "whole": ("ddp", None, SETTINGS),
    "accumulated": ("ddp", 5, SETTINGS),
    "whole, by Muon": ("ddp", None, MUON),
    "whole, with adapters": ("ddp", None, ADAPTERS),
    "divided": ("ddp", None, SETTINGS),
    "divided and accumulated": ("ddp", 3, SETTINGS),  # into 2, 3, 2 and 3 images
    "divided, by Muon": ("ddp", None, MUON),
    "divided, with adapters": ("ddp", None, ADAPTERS),
    "sharded": ("fsdp", None, SETTINGS),
    "sharded and accumulated": ("fsdp", 3, SETTINGS),
    "sharded, by Muon": ("fsdp", None, MUON),
    "sharded, with adapters": ("fsdp", None, ADAPTERS),
    "hybrid": ("hybrid", None, SETTINGS),  # as two machines of one process
    "hybrid, by Muon": ("hybrid", None, MUON),
}
ALONE = 4
"""Number of divisions that run in one process; the others run in two."""


def begin(
    parallel: Parallel,
    settings: Train = SETTINGS,
    gradients: Gradients = "float32",
    precision: Precision = "float32",
) -> State:
    """A training of a tiny network without dropout, because dropout masks depend on the division."""
    torch.manual_seed(0)
    network = UNet(
        channels=1, size=8, classes=3, out_channels=2, width=8, multipliers=(1, 2), blocks=1, attention=(4,),
        head_channels=8, dropout=0.0, augmentation=numbers_in(SETTINGS.augment),
    )  # fmt: skip
    if settings.lora.rank:
        adapt(network, network.state_dict().keys() - {AUGMENTATION}, settings.lora)
    return new_state(network, settings=settings, parallel=parallel, gradients=gradients, precision=precision)


def run(
    state: State,
    *,
    device_batch: int | None,
    settings: Train = SETTINGS,
    gradients: Gradients = "float32",
    precision: Precision = "float32",
) -> list[Step]:
    device, process = torch.device("cpu"), make_schedule("cosine", T)
    images = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), dtype=np.uint8)
    batches = Batches(
        images, np.arange(37) % 3, batch_size=settings.batch_size, seed=0, flip=settings.flip, device=device
    )
    return list(
        train(
            state,
            batches,
            method=Diffusion(
                process, make_times(process, settings, memory=state.times, device=torch.device("cpu")), LEARNED
            ),
            settings=settings,
            device=device,
            precision=precision,
            device_batch=device_batch,
            gradients=gradients,
        )
    )


def checkpoint_of(division: str, folder: Path) -> list[Step]:
    """Train with this division and write the checkpoint to `folder`/`division`."""
    parallel, device_batch, settings = DIVISIONS[division]
    if parallel == "hybrid":
        os.environ["LOCAL_WORLD_SIZE"] = str(processes() // 2)
    state = begin(parallel, settings)
    steps = run(state, device_batch=device_batch, settings=settings)
    checkpoint.save(folder / division, state, fingerprint="f", extra={"losses": [float(step.loss) for step in steps]})
    return steps


def exchanged(folder: Path) -> None:
    """Write the losses of two processes by parallel and gradients, and the bytes that DDP sends in bf16 in a step."""
    losses, sent, send = {}, list[int](), dist.all_reduce
    few = dataclasses.replace(SETTINGS, images=4 * BATCH)

    def counted(tensor: Tensor, *args: Any, **options: Any) -> Any:
        if tensor.dtype == torch.bfloat16:
            sent.append(tensor.nbytes)
        return send(tensor, *args, **options)

    dist.all_reduce = counted
    with joined(PARAMS.runtime):
        for parallel, gradients in (("ddp", "float32"), ("ddp", "bf16"), ("fsdp", "bf16")):
            state = begin(parallel, few, gradients)
            steps = run(state, device_batch=None, settings=few, gradients=gradients)
            losses[f"{parallel} {gradients}"] = [float(step.loss) for step in steps]
            if (parallel, gradients) == ("ddp", "bf16"):
                weights = sum(p.numel() for p in state.network.parameters())
        together()
    per_pass = sum(sent) / (len(steps) + 1)  # `replicated` rehearses once
    (folder / f"exchanged-{rank()}.json").write_text(json.dumps([losses, per_pass, weights]))


def compiled(folder: Path) -> None:
    """Train a sharded network, once as it is and once compiled (without code generation); write losses and graphs."""
    few, graphs = dataclasses.replace(SETTINGS, images=4 * BATCH), list[torch.fx.GraphModule]()

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph

    torch.compile = partial(torch.compile, backend=keep)
    losses = []
    with joined(PARAMS.runtime):
        for compiles in (False, True):
            state = begin("fsdp", few)
            if compiles:
                compile_steps(state.network)
            losses.append([float(step.loss) for step in run(state, device_batch=None, settings=few)])
        together()
    stages = sum(isinstance(module, Stage) for module in state.network.modules())
    (folder / f"compiled-{rank()}.json").write_text(json.dumps([losses, len(graphs), stages]))


def in_machines(folder: Path, parallel: Parallel, precision: Precision) -> None:
    """Train in two machines of two processes each, as far as the processes know; write losses and a weight."""
    os.environ["LOCAL_WORLD_SIZE"] = "2"
    few = dataclasses.replace(SETTINGS, images=4 * BATCH)
    with joined(PARAMS.runtime):
        state = begin(parallel, few, precision=precision)
        steps = run(state, device_batch=None, settings=few, precision=precision)
        losses = [float(step.loss) for step in steps]
        weight = whole(state.network.conv_in.weight).detach()
        kept = state.network.conv_in.weight.to_local().numel() if parallel != "ddp" else weight.numel()
        together()
    content = [losses, float(weight.double().sum()), kept / weight.numel()]
    (folder / f"{parallel}-{rank()}.json").write_text(json.dumps(content))


def checkpoints_of(divisions: list[str], folder: Path) -> None:
    """Call `checkpoint_of` for each division, as one of several processes."""
    with joined(PARAMS.runtime):
        for name in divisions:
            checkpoint_of(name, folder)
        together()


def gathered(state: State) -> dict[str, torch.Tensor]:
    """Return copies of all tensors of the state, whole; all processes must call this."""
    return {name: whole(tensor).clone().contiguous() for name, tensor in tensors_of(state).items()}
