"""The weights of diffusers' model in this project's U-Net, drawn from by this project's sampler."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from contenders import Draw, Setting

if TYPE_CHECKING:
    from ddpm.model_file import Model

STEPS = (5, 7, 10, 15, 20)


def ladder(default: Setting) -> tuple[Setting, ...]:
    """This project's sampler with fewer and with more evaluations than by default, without guidance."""
    told = default.told | {"guidance": 1.0}
    return tuple(
        Setting(f"{told['sampler']} {steps}, {told['time_grid']} grid", steps, told | {"steps": steps})
        for steps in STEPS
    )


def as_ours(folder: Path) -> "Model":
    """The model of diffusers in the folder, trained to predict eps along its linear schedule of 1000 steps."""
    from ddpm.networks.exchange import from_diffusers, with_time_shifted
    from diffusers import UNet2DModel

    from ddpm.model_file import Model
    from ddpm.networks.unet import UNet

    theirs = UNet2DModel.from_pretrained(folder)
    architecture, weights = from_diffusers(dict(theirs.config), theirs.state_dict())
    network = UNet(**architecture)
    network.load_state_dict(with_time_shifted(architecture, weights, by=-1))  # their steps are 0 to 999
    spec: dict[str, Any] = {
        "channels": architecture["channels"],
        "size": architecture["size"],
        "classes": [],
        "schedule": {"name": "linear", "T": 1000},
        "objective": {"target": "eps", "weight": "simple", "min_snr_gamma": 5.0},
        "network": {"label_dropout": 0.0},
    }
    return Model(network.eval().requires_grad_(False), spec, lineage={}, sha256="")


@dataclass
class SameWeights:
    """Draws with this project's code."""

    model: "Model"
    batch: int = 256

    def drawer(self) -> Draw:
        from ddpm import runtime
        from ddpm.evaluation.generate import generate

        device = runtime.choose_device("auto")
        precision = runtime.choose_precision("auto", device, self.model.spec["size"])
        network = self.model.network.to(device=device, memory_format=runtime.memory_format(device, precision))
        model = replace(self.model, network=network)

        def draw(n: int, seed: int, setting: Setting) -> Tensor:
            told: dict[str, Any] = setting.told
            return generate(
                model, n=n, seed=seed, labels=None, batch=self.batch, device=device, precision=precision, **told
            )

        return draw
