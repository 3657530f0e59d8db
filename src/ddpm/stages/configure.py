"""DVC stage `configure`: params.yaml as a whole, before anything is built of it.

What is wrong with a value of any stage stops here, as far as it can be told without data, and what nothing reads is
said. So is what stands at data.path and can be no data, while DVC does not look there yet. Later stages read
params.yaml again, since each runs alone, too.
"""

from pathlib import Path

from ddpm import unread_settings
from ddpm.compute.settings import Runtime
from ddpm.data.preparing.tree import require_readable
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.params import Params
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    params = stage.params
    _require_files(params)
    _require_devices(params.runtime)
    require_readable(Path(params.data.path), source=params.data.source)
    for sentence in unread_settings.warned(params):
        print(f"warning: {sentence}")
    # What the next stage waits for. It is always the same, so no value makes a stage run that does not read it.
    write_json(stage.paths.passed, {"params.yaml": "valid"})


def _require_files(params: Params) -> None:
    for key in ("features.inception_weights", "sample.guide"):
        path = unread_settings.value_of(params, key)
        if path is not None and not Path(path).is_file():
            raise UserError(f"{key} is {path}, which is no file; give the path of one, or null")


def _require_devices(runtime: Runtime) -> None:
    """Imports torch only where a device or several processes are asked for."""
    if runtime.device not in ("auto", "cpu"):
        from ddpm.compute.hardware import choose_device

        choose_device(runtime.device)
    if runtime.processes > 1:
        from ddpm.compute.launch import number_of_processes

        number_of_processes(runtime)


if __name__ == "__main__":
    execute(main, "passed")
