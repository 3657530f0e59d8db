"""DVC stage `configure`: check params.yaml as a whole before any other stage runs.

The pipeline stops here if a value of any stage is wrong, as far as that is known without data, and if a file at
data.path cannot be data, because DVC itself would wait or fail there. Settings without effect give a warning. Later
stages read params.yaml again, because each of them can run alone.
"""

from pathlib import Path

from ddpm import unread_settings
from ddpm.compute.settings import Runtime
from ddpm.data.preparing.tree import require_readable
from ddpm.errors import UserError
from ddpm.files import require_inside, write_json
from ddpm.params import Params
from ddpm.planning import size_choice
from ddpm.promotion.registry import CHAMPION
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    params = stage.params
    _require_files(params)
    _require_start(params.train.start, stage.paths.starts)
    _require_packages(params)
    _require_devices(params.runtime)
    require_readable(Path(params.data.path), source=params.data.source)
    if note := unread_settings.noted(params):
        print(note)
    for sentence in unread_settings.warned(params):
        print(f"warning: {sentence}")
    # The next stages depend on this file. Its content is constant, so a changed value reruns only its readers, but for
    # the settings by which stage `prepare` chooses a size: they count only where data.size sets none.
    causes = size_choice.causes(params) if params.data.size is None else {}
    write_json(stage.paths.passed, {"params.yaml": "valid", "size_depends_on": causes})


def _require_files(params: Params) -> None:
    for key in (
        "features.inception_weights",
        "features.dinov2_weights",
        "features.clip_weights",
        "sample.guide",
        "sample.base",
    ):
        path = unread_settings.value_of(params, key)
        if path is not None and not path.startswith("models:/") and not Path(path).is_file():
            raise UserError(f"{key} is {path}, expected the path of an existing file or null; correct it")


def _require_start(start: str | None, starts: Path) -> None:
    """Raise UserError if train.start is a path at which there cannot be a model. Weights are read in training."""
    if start is None or start == CHAMPION:
        return
    path = Path(start)
    require_inside(path, starts, key="train.start", expected="champion, or a model")
    options = ("config.json", "unet/config.json")
    if not path.is_file() and not any((path / name).is_file() for name in options):
        raise UserError(
            f"train.start is {path}, expected a model file, or a folder of diffusers with {' or '.join(options)}; "
            "correct it"
        )
    if path.is_file():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np"):  # reads the header only
                pass
        except SafetensorError as error:
            raise UserError(
                f"train.start is {path}, which is not a complete safetensors file ({error}); expected a model file, "
                "such as models/model.safetensors of a finished pipeline"
            ) from None


def _require_packages(params: Params) -> None:
    """Raise UserError if an optional package is missing that the settings need."""
    if params.train.lora.rank:
        from ddpm.training.lora import require_peft

        require_peft()
    if params.condition == "text":
        from ddpm.text.tokenizer import require_tokenizers

        require_tokenizers()


def _require_devices(runtime: Runtime) -> None:
    """Raise UserError for devices that this machine lacks; import torch only if the settings need a check."""
    if runtime.device not in ("auto", "cpu"):
        from ddpm.compute.hardware import choose_device

        choose_device(runtime.device)
    if runtime.processes > 1:
        from ddpm.compute.launch import number_of_processes

        number_of_processes(runtime)


if __name__ == "__main__":
    execute(main, "starts", "passed")
