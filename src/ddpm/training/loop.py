"""The training loop: a generator of steps. Its caller decides on logging, checkpoints, pictures and when to stop."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ddpm.compute.hardware import Precision, autocast, memory_format
from ddpm.compute.processes import processes
from ddpm.degrading import conditions
from ddpm.degrading.settings import ImageCondition
from ddpm.errors import UserError
from ddpm.images import to_model_range
from ddpm.networks.conditioned import Conditional
from ddpm.networks.ema import Ema
from ddpm.seeding import seed_of
from ddpm.training import augmentation
from ddpm.training.batches import Batches
from ddpm.training.decay import parameter_groups
from ddpm.training.exchange import Exchange
from ddpm.training.methods.method import Images, Method
from ddpm.training.muon import Muon
from ddpm.training.settings import Train
from ddpm.training.sharding import Gradients, Parallel, accumulating, is_sharded, parts_of, replicated, shard, whole


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.int64)


@dataclass
class State:
    """The state of a training: a checkpoint contains exactly this."""

    network: Conditional
    ema: Ema
    optimizer: torch.optim.Optimizer
    images_seen: int = 0
    nonfinite_steps: Tensor = field(default_factory=_zero)
    """Number of steps skipped so far: int64 [], on the device, as the next."""
    nonfinite_in_a_row: Tensor = field(default_factory=_zero)
    """Number of steps skipped since the last one that was not."""
    times: dict[str, Tensor] = field(default_factory=dict)
    """The memory of the distribution of t, see `times.Importance`; empty for those that learn nothing."""


@dataclass(frozen=True)
class Step:
    """The result of one step, over all processes. Its tensors are on the device; reading one waits for the step."""

    images_seen: int
    loss: Tensor
    """Mean over the batch of the weighted loss: float32 []."""
    losses: Tensor
    """Unweighted loss of each image: float32 [B]."""
    weights: Tensor
    """[B]: importance weights that make the mean loss unbiased; 1 unless t is sampled by importance."""
    t: Tensor | None
    """[B]: the times of diffusion."""
    terms: Tensor
    """float32 [2,K]: sum over the batch, and its count, of each of the method's terms."""
    gradient_norm: Tensor
    """Before clipping: float32 []."""
    learning_rate: float
    skipped: Tensor
    """The loss or a gradient was not finite, so the weights were not changed: bool []."""
    asked: Sequence[bool]
    """What any process asked for, see `train`; of the step before this one where this one is still computed."""


def new_state(
    network: Conditional,
    *,
    settings: Train,
    parallel: Parallel = "ddp",
    gradients: Gradients = "float32",
    precision: Precision = "float32",
    trained: bool = False,
    beta1: float = 0.9,
) -> State:
    """Return the state of a new training; the network must be on its device.

    With `fsdp` and `hybrid`, weights, average and optimizer are sharded over the processes, and
    `gradients` is the type in which they are added up. `trained`: weights and average are those of a trained model.
    `beta1` is Adam's first decay rate.
    """
    ema = Ema(network, halflife_images=settings.ema_halflife_images, trained=trained)
    if parallel != "ddp" and processes() > 1:
        shard(network, parallel=parallel, precision=precision, gradients=gradients)
        shard(ema.network, parallel=parallel)
    adam: dict[str, Any] = {
        "lr": settings.lr,
        "betas": (beta1, settings.beta2),
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.optimizer == "adamw":
        return State(network, ema, AdamW(parameter_groups(network), **adam))
    inputs = ["conv_in", *(["augmentation"] if settings.augment.probability else [])]
    first_and_last = [network.get_submodule(name) for name in (*inputs, "conv_out")]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return State(network, ema, Muon(network, first_and_last=first_and_last, dtype=dtype, **adam))


def learning_rate(images_seen: int, settings: Train) -> float:
    """Return the learning rate: linear warm-up, a plateau, and a cosine to zero over the last `decay_images`."""
    rate = settings.lr
    if images_seen < settings.warmup_images:
        rate *= images_seen / settings.warmup_images
    left = settings.images - images_seen
    if left < settings.decay_images:
        rate *= 0.5 - 0.5 * math.cos(math.pi * max(left, 0) / settings.decay_images)
    return rate


def train(
    state: State,
    batches: Batches,
    *,
    method: Method,
    settings: Train,
    device: torch.device,
    precision: Precision,
    device_batch: int | None = None,
    gradients: Gradients = "float32",
    ask: Callable[[], Sequence[bool]] = tuple,
    degrading: ImageCondition | None = None,
) -> Iterator[Step]:
    """Train from `state` until `settings.images` have been seen; yield each step. `method` has the losses.

    A step does not wait for the device: whether it is skipped is decided there. `ask` returns what this process wants
    (to stop, to save), the same number of flags everywhere; they travel with the losses to all processes.

    With `degrading` the condition of an image is the image itself, degraded.

    Every random number of a step is a function of (seed, images seen, position in the global batch). Therefore a
    training that was stopped and continued gives bitwise the same weights as one that was not, and a training divided
    over processes or, by `device_batch`, over accumulation steps gives the same up to rounding. Only dropout inside the
    network also depends on the division of a batch into parts.

    Raises UserError after `settings.max_nonfinite_steps` skipped steps in a row, on a CPU; on other devices the caller
    does so when it reads the step's values (`require_finite`).
    """
    layout = memory_format(device, precision)
    batch = settings.batch_size
    parts = parts_of(batch, device_batch=device_batch)
    _lay_out(state, layout)
    state.nonfinite_steps, state.nonfinite_in_a_row = (
        counter.to(device) for counter in (state.nonfinite_steps, state.nonfinite_in_a_row)
    )
    exchange = Exchange(parts, batch)
    weights = list(state.network.parameters())

    described = augmentation.numbers_in(settings.augment)

    def example() -> tuple[object, ...]:
        images, condition = batches.at(state.images_seen, parts[0])
        if degrading is not None:
            n, channels, *size = images.shape
            condition = torch.zeros(n, degrading.planes(channels), *size, device=device)
        numbers = torch.zeros(len(images), described, device=device) if described else None
        return method.arguments(Images(to_model_range(images).to(memory_format=layout), condition, numbers))

    with autocast(device, precision):
        network = replicated(state.network.train(), example, gradients=gradients)

    def computed(*arguments: object) -> Any:
        with autocast(device, precision):
            return network(*arguments)

    while state.images_seen < settings.images:
        before = state.images_seen
        state.images_seen += batch
        rate = learning_rate(state.images_seen, settings)
        for group in state.optimizer.param_groups:
            group["lr"] = rate

        torch.manual_seed(seed_of("step", settings.seed, before))
        shape = torch.Size((batch, *batches.images.shape[1:]))
        drawn = method.draw(shape, device, layout)
        transformations = augmentation.draw(settings.augment, batch, seed=settings.seed, images_seen=before)
        chance = None if degrading is None else conditions.draw(degrading, shape, device=device)
        if batches.conditions is not None or degrading is not None:
            hidden = torch.rand(batch, device=device) < settings.label_dropout

        state.optimizer.zero_grad(set_to_none=True)
        values_of_parts = []
        for part in parts:
            images, condition = batches.at(before, part)
            x_0, numbers = to_model_range(images), None
            if transformations is not None:
                x_0, numbers = transformations.apply(x_0, part)
            x_0 = x_0.to(memory_format=layout)
            if degrading is not None and chance is not None:
                condition = conditions.degraded(degrading, x_0, chance.part(part))
            if condition is not None:
                condition = state.network.hide(condition, hidden[part])
            if part.start > 0:  # parts must not have the same dropout mask, whichever process computes them
                torch.manual_seed(seed_of("dropout", settings.seed, before, part.start))

            with accumulating(network, last=part is parts[-1]):
                values = method.losses(computed, Images(x_0, condition, numbers), drawn, part)
                # Gradients are summed over parts and averaged over processes: weight a part by its share of the images.
                share = len(values) * processes() / batch
                ((drawn.weights[part] * values[:, 0]).mean() * share).backward()
            values_of_parts.append(values.detach())

        values, asked = exchange(values_of_parts, ask())
        norm = whole(nn.utils.clip_grad_norm_(weights, settings.grad_clip))
        loss = (drawn.weights * values[:, 0]).mean()

        skipped = ~(loss.isfinite() & norm.isfinite())
        state.nonfinite_steps += skipped
        state.nonfinite_in_a_row = (state.nonfinite_in_a_row + 1) * skipped
        state.optimizer.found_inf = skipped.to(torch.float32)  # type: ignore[attr-defined]
        state.optimizer.step()
        state.ema.update(state.network, images_seen=state.images_seen, batch_size=batch, skipped=skipped)
        method.learn(values, drawn, skipped=skipped)

        step = Step(
            images_seen=state.images_seen,
            loss=loss,
            losses=values[:, 0],
            weights=drawn.weights,
            t=drawn.t,
            terms=method.means(values, drawn),
            gradient_norm=norm,
            learning_rate=rate,
            skipped=skipped,
            asked=asked,
        )
        if device.type == "cpu":
            require_finite(state, step, settings)
        yield step


def require_finite(state: State, step: Step, settings: Train) -> None:
    """Raise UserError if more than `settings.max_nonfinite_steps` steps in a row were skipped. `step` is the last."""
    in_a_row = int(state.nonfinite_in_a_row)
    if in_a_row > settings.max_nonfinite_steps:
        raise UserError(
            f"the loss or its gradient was not finite {in_a_row} steps in a row (loss {float(step.loss)}, "
            f"gradient norm {float(step.gradient_norm)}, after {state.images_seen} images); lower train.lr "
            f"(now {settings.lr}) or train.grad_clip, or set runtime.precision to float32"
        )


def _lay_out(state: State, layout: torch.memory_format) -> None:
    """Bring weights, average and moments into one memory layout.

    The fused optimizer reads weights and moments in the order of memory, and those of a checkpoint are contiguous. A
    sharded state is flat and needs no change.
    """
    if is_sharded(state.network):
        return
    state.network.to(memory_format=layout)
    state.ema.network.to(memory_format=layout)
    for parameter, moments in state.optimizer.state.items():
        for name in moments.keys() & {"exp_avg", "exp_avg_sq"}:
            moments[name] = torch.empty_like(parameter).copy_(moments[name])
