"""The weights of diffusers' model in this project's U-Net, drawn from by this project's sampler."""

from dataclasses import replace
from pathlib import Path

from contenders import Draw, Setting
from contenders.ours import file_drawer, setting_of
from ddpm.compute.settings import Runtime

STEPS = (5, 10, 20)


def ladder(default: Setting) -> tuple[Setting, ...]:
    """This project's sampler with fewer and with more evaluations than by default, without guidance."""
    unguided = replace(default.told["recipe"], guidance=1.0)
    return tuple(setting_of(replace(unguided, steps=steps), evaluations=steps) for steps in STEPS)


def drawer(folder: Path, runtime: Runtime) -> Draw:
    """Draws with the model that `contenders.huggingface` saved in the folder, which then holds it in both formats.

    Raises UserError where diffusers' network is one that this project's U-Net cannot be.
    """
    from ddpm.exchange.diffusers_folder import import_model

    file = folder / "imported.safetensors"
    import_model(folder, file, schedule="linear", target="eps", null_label=False)
    return file_drawer(file, runtime)
