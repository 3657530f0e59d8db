"""The code that a stage depends on, as dvc.yaml in the working folder declares it."""

from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

import ddpm
from ddpm.errors import UserError

PIPELINE = Path("dvc.yaml")
PACKAGE = Path(ddpm.__file__).parent
_SOURCE = "src/ddpm/"


def code_of_stage(name: str) -> list[Path]:
    """Return the files and folders of this package that the stage depends on; DVC reruns it when one of them changes.

    Raises UserError if dvc.yaml is missing or declares no code for the stage.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        stages = YAML(typ="safe").load(PIPELINE.read_text())["stages"]
        deps = [dep for dep in stages[name]["deps"] if isinstance(dep, str) and dep.startswith(_SOURCE)]
    except (OSError, ValueError, YAMLError, TypeError, KeyError) as error:
        raise UserError(
            f"{PIPELINE.absolute()} does not declare the stage {name} ({type(error).__name__}: {error}); "
            "run the stage in the project's folder"
        ) from None
    if not deps:
        raise UserError(f"{PIPELINE.absolute()} names no code under {_SOURCE} for the stage {name}; add its deps")
    return [PACKAGE / dep.removeprefix(_SOURCE) for dep in deps]


def options_of_stage(name: str) -> Namespace | None:
    """Return the paths in the command of a stage by option, as the stage gets them; None if there is no such stage."""
    from ruamel.yaml import YAML, YAMLError

    try:
        words = YAML(typ="safe").load(PIPELINE.read_text())["stages"][name]["cmd"].split()
    except (OSError, ValueError, YAMLError, TypeError, KeyError, AttributeError):
        return None
    return Namespace(**{option[2:]: Path(value) for option, value in pairwise(words) if option.startswith("--")})


def params_of_stages(pipeline: Path = PIPELINE) -> dict[str, list[str]]:
    """Return the sections and keys of params.yaml that each stage reads, without a stage that reads the whole file.

    Raises UserError if the file is missing or declares no stages.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        stages = YAML(typ="safe").load(pipeline.read_text())["stages"]
        read = {name: stage.get("params", []) for name, stage in stages.items()}
    except (OSError, ValueError, YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{pipeline.absolute()} declares no stages ({type(error).__name__}: {error}); "
            "run the command in the project's folder"
        ) from None
    return {name: keys for name, keys in read.items() if all(isinstance(key, str) for key in keys)}


def inputs(*, data_path: str) -> list[Path]:
    """Return the dependencies that no stage makes and that are no code: the user's own files. `data_path` is data.path.

    Raises UserError if dvc.yaml is missing or malformed.
    """
    from ruamel.yaml import YAML, YAMLError

    try:
        stages = YAML(typ="safe").load(PIPELINE.read_text())["stages"].values()
        made = {_name(out) for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, ())}
        deps = [str(dep).replace("${data.path}", data_path) for stage in stages for dep in stage.get("deps", ())]
    except (OSError, ValueError, YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{PIPELINE.absolute()} declares no stages ({type(error).__name__}: {error}); correct it"
        ) from None
    outside = dict.fromkeys(dep for dep in deps if not dep.startswith("src/"))
    return [Path(dep) for dep in outside if not any(Path(dep).is_relative_to(out) for out in made)]


def _name(out: Any) -> str:
    return str(next(iter(out))) if isinstance(out, dict) else str(out)
