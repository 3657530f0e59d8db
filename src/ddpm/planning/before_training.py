"""What happens before the first step: a training is measured, planned, and refused or allowed."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.compute.hardware import busy_sentence, kind_of_machine
from ddpm.compute.memory import free_bytes
from ddpm.compute.processes import leads, restarted, together
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.model_spec import Spec
from ddpm.planning import alternatives, length
from ddpm.planning.measuring import Measured, division, measure, processes_of
from ddpm.planning.plan import Pictures, Plan, Sections, evaluation_seconds, gate_cost, sampling_seconds
from ddpm.training import finished
from ddpm.training.checkpoint_folder import checkpoints
from ddpm.training.sharding import require_same

if TYPE_CHECKING:
    import torch

    from ddpm.compute.hardware import Precision


def agreed(
    params: Sections,
    spec: Spec,
    pictures: Pictures,
    *,
    folder: Path,
    device: "torch.device",
    precision: "Precision",
) -> length.Planned | None:
    """Print the plan of the training whose state is in `folder`; return the length planned for train.minutes, if set.

    All processes must call this; rank 0 measures, prints and records. A training that has begun is always continued,
    because a second measurement differs by noise. Raises UserError, one sentence with the measured numbers and the
    settings to change, for a new training that does not fit into memory or into train.max_hours.
    """
    if leads():
        begun = has_begun(params, folder)
        plan, planned = make_plan(params, spec, pictures, folder=folder, device=device, precision=precision)
        for line in plan.lines():
            print(line, flush=True)
        if not begun and (sentence := plan.refusal()):
            raise UserError(sentence)
        if planned is not None:
            if length.recorded(folder) is None:
                length.record(folder, planned)
            print("plan: to repeat this training on another machine, set in params.yaml:")
            print("\n".join(planned.as_yaml()), flush=True)
        if math.isfinite(plan.cost.seconds):
            _record_cost(folder, plan.cost, _conditions(params, device, precision))
    together()
    planned = length.recorded(folder) if params.train.minutes is not None else None
    require_same(
        0 if planned is None else planned.lengths["images"], what="the planned length, recorded in the state folder"
    )
    return planned


def has_begun(params: Sections, folder: Path) -> bool:
    """Return whether the training in `folder` has a checkpoint from which the next start continues."""
    anew = params.runtime.resume == "never" and not restarted()
    return not anew and bool(checkpoints(folder))


def make_plan(
    params: Sections,
    spec: Spec,
    pictures: Pictures | None,
    *,
    folder: Path | None,
    device: "torch.device",
    precision: "Precision",
    free: int | None = None,
) -> tuple[Plan, length.Planned | None]:
    """Measure and return the plan, and the length if train.minutes is set: the recorded one, or else a new one.

    `folder` is that of the training's state, if it is known. A training that has begun there is not measured again, if
    it is continued under the same conditions. `free`: memory in bytes that may be taken; None: all that is free.
    """
    train = params.train
    free = free_bytes(device) if free is None else free
    begun = folder is not None and has_begun(params, folder)
    busy = busy_sentence() if device.type == "cpu" else None
    cost = _recorded_cost(folder, _conditions(params, device, precision)) if folder is not None and begun else None
    if cost is None:
        others = tuple(alternatives.models(spec).values())
        cost = measure(spec, train, params.runtime, device, precision, others=others, free=free)
    planned = length.recorded(folder) if folder is not None and train.minutes is not None else None
    if planned is None and train.minutes is not None and cost.images_that_fit:
        planned = length.planned_for(train, seconds_per_step=cost.seconds)
    settings = train if planned is None else planned.settings(train)
    number = processes_of(params.runtime)
    plan = Plan(
        spec=spec,
        pictures=pictures,
        settings=settings,
        cost=cost,
        free_bytes=free,
        device_images=division(settings.batch_size, params.runtime)[1],
        alternatives=alternatives.ranked(spec, cost.ratios, images=train.images if planned is None else None),
        sampling_seconds=None
        if pictures is None
        else sampling_seconds(spec, pictures, params.sample, forward_seconds=cost.forward_seconds, processes=number),
        evaluation_seconds=None
        if pictures is None
        else evaluation_seconds(spec, pictures, params.sample, params.evaluate, cost=cost, processes=number),
        gate=None
        if pictures is None
        else gate_cost(spec, pictures, params.sample, params.promote, forward_seconds=cost.forward_seconds),
        images_seen=images_seen(folder) if folder is not None and begun else 0,
        minutes=train.minutes if planned is not None else None,
        busy=busy,
    )
    return plan, planned


def images_seen(folder: Path) -> int:
    """Return the images seen at the last checkpoint, by its name."""
    numbers = (path.stem.split("-")[1] for path in checkpoints(folder))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def _conditions(params: Sections, device: "torch.device", precision: "Precision") -> dict[str, Any]:
    """Return what the cost of a step depends on besides the training."""
    runtime = params.runtime
    number = {"processes": processes_of(runtime), "parallel": runtime.parallel}
    return (
        kind_of_machine(device)
        | number
        | {"device_batch": runtime.device_batch, "precision": precision}
        | ({"native_norm": True} if runtime.native_norm else {})
    )


def _record_cost(folder: Path, cost: Measured, conditions: dict[str, Any]) -> None:
    write_json(folder / finished.COST, {"cost": asdict(cost), "conditions": conditions})


def _recorded_cost(folder: Path, conditions: dict[str, Any]) -> Measured | None:
    """Return the cost that was measured under the same conditions when the training began; None without it."""
    try:
        values = json.loads((folder / finished.COST).read_text())
        if values["conditions"] != conditions:
            return None
        return Measured(**values["cost"] | {"ratios": tuple(values["cost"]["ratios"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is measured again
