"""dvc.yaml says the truth: what a stage imports and reads is what it declares, so that nothing stale is reused."""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ddpm.params import Params
from ddpm.params import load as load_params
from ddpm.training.spec import SECTIONS

ROOT = Path(__file__).parents[2]
STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = YAML(typ="safe").load((ROOT / "params.yaml").read_text())

# These say where to run, what to print and whom to tell; none changes what a stage writes as its result. `planning`
# measures: the size that it chooses for images is no function of code, so editing what trains must not prepare anew.
NO_RESULT = {
    "__init__",
    "compute",
    "errors",
    "files",
    "unread_settings",
    "pipeline",
    "planning",
    "params",
    "few_images",
    "recipe_advice",
    "redaction",
    "reporting",
    "serving",
    "settings",
    "signing",
    "tracker",
    "tracking",
    "yaml_file",
}
# The registry is the result of the stage that writes to it, and a page that of the stage that writes it.
RESULT_OF = {"register": {"tracking", "reporting", "signing"}, "report": {"reporting"}}
# Pictures and FID of a training that only MLflow shows: editing them must not train anew.
SHOWN_ONLY = {"train": {"generation", "measuring"}}
NO_RESULT_SECTIONS = {"retrain", "runtime", "search", "serve", "signing", "tracking", "watch"}
# A champion that has moved reruns no training that started from the former one, nor does the name of its model.
# Stage `prepare` compares the number of images with limits of later stages only to warn early.
# What `train` measures while it trains changes no result.
READ_ONCE = {"train": {"promote", "sample", "evaluate"}, "prepare": {"validate", "features", "evaluate"}}
# Keys that decide only whether a stage begins; their section is declared key by key.
NO_RESULT_KEYS = {"train.max_hours", "evaluate.during"}
# Where data.size is null, stage `configure` writes what of these can change the size into its output, which the stage
# depends on (tests/stages/test_configure_stage.py).
BY_CONFIGURED = {"prepare": {"method", "schedule", "objective", "network", "vae", "gan", "condition", "text", "train"}}


def module_file(dotted: str) -> Path | None:
    """The file of `ddpm.a.b`, or of `ddpm.a` when b is a name in it."""
    parts = dotted.split(".")[1:]
    for length in (len(parts), len(parts) - 1):
        base = ROOT / "src" / "ddpm" / Path(*parts[:length])
        if base.with_suffix(".py").is_file():
            return base.with_suffix(".py")
        if length == len(parts) and (base / "__init__.py").is_file():
            return base / "__init__.py"
    return None


SOURCE = ROOT / "src" / "ddpm"


def needed_by(stage: str) -> set[Path]:
    """The files of the package whose change may change what the stage writes."""
    without = (NO_RESULT | SHOWN_ONLY.get(stage, set())) - RESULT_OF.get(stage, set())
    return closure(SOURCE / "stages" / f"{stage}.py", without, set()) - {SOURCE / "stages" / "stage.py"}


def closure(path: Path, without: set[str], seen: set[Path]) -> set[Path]:
    """All files of the package that running this one may import, but for the names in `without`."""
    if path in seen or room_of(path) in without:
        return seen
    seen.add(path)
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only or not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        for alias in node.names:
            if node.module.split(".")[0] == "ddpm" and (file := module_file(f"{node.module}.{alias.name}")):
                closure(file, without, seen)
    return seen


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "src" / "ddpm").with_suffix("").parts[0]


def sections_read(path: Path) -> set[str]:
    """Every X of `stage.params.X` or `params.X` in a stage, and the names in `getattr(stage.params, …)`."""
    tree = ast.parse(path.read_text())
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("params", "stage.params")
    }
    for node in ast.walk(tree):  # getattr(stage.params, name) for name in (…)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "sections_of":
            names |= set(SECTIONS)
        if isinstance(node, ast.Call) and ast.unparse(node).startswith(("getattr(params,", "getattr(stage.params,")):
            loop = next(c for c in ast.walk(tree) if isinstance(c, ast.DictComp) and node in ast.walk(c))
            listed = loop.generators[0].iter
            is_imported = isinstance(listed, ast.Name) and listed.id == "SECTIONS"
            names |= set(SECTIONS if is_imported else ast.literal_eval(listed))
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_what_the_stage_imports(stage: str) -> None:
    deps = [ROOT / dep for dep in STAGES[stage]["deps"] if dep.startswith("src/")]
    needed = needed_by(stage)
    missing = {
        str(path.relative_to(ROOT)) for path in needed if not any(path == dep or dep in path.parents for dep in deps)
    }
    assert missing == set(), f"{stage} imports what dvc.yaml does not list, so DVC would reuse stale results"


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_no_code_that_the_stage_does_not_import(stage: str) -> None:
    needed = needed_by(stage)
    idle = {
        dep
        for dep in STAGES[stage]["deps"]
        if dep.startswith("src/") and not any(path == ROOT / dep or ROOT / dep in path.parents for path in needed)
    }
    assert idle == set(), f"{stage} would run again for changes that cannot touch it"


def keys_of(sections: Iterable[str]) -> set[str]:
    """`section.key` of every key; a name with a dot is one already."""
    return {key for name in sections for key in ([name] if "." in name else [f"{name}.{key}" for key in PARAMS[name]])}


WHOLE = [{"params.yaml": None}]
"""What `configure` reads."""


@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"configure"}))
def test_params_are_those_that_the_stage_reads(stage: str) -> None:
    read = sections_read(ROOT / "src" / "ddpm" / "stages" / f"{stage}.py") - NO_RESULT_SECTIONS
    read -= READ_ONCE.get(stage, set()) | BY_CONFIGURED.get(stage, set())
    assert keys_of(read) - NO_RESULT_KEYS == keys_of(STAGES[stage]["params"])


def test_the_first_stage_reads_every_value_and_all_others_wait_for_it() -> None:
    assert next(iter(STAGES)) == "configure"
    assert STAGES["configure"]["params"] == WHOLE
    assert {name for out in STAGES["configure"]["outs"] for name in out} <= set(STAGES["prepare"]["deps"])


HIDDEN = {"size", "nfiles"}
"""Names of keys that DVC leaves out of the key of its run cache, at any depth (`dvc.stage.cache`)."""


def test_no_stage_takes_from_the_run_cache_what_another_value_made() -> None:
    hidden = {f"{section}.{key}" for section, values in PARAMS.items() if isinstance(values, dict) for key in values}
    hidden = {name for name in hidden if name.split(".")[1] in HIDDEN}
    assert hidden
    for name, stage in STAGES.items():
        if stage["params"] == WHOLE:
            assert all(out[next(iter(out))]["persist"] for out in stage["outs"]), name
        else:
            read = {key for key in hidden if key.split(".")[0] in stage["params"]}
            assert read <= set(stage["params"]), name


def test_every_section_is_read_by_a_stage_or_changes_no_result() -> None:
    declared = {section for stage in STAGES.values() if stage["params"] != WHOLE for section in stage["params"]}
    declared = {name.split(".")[0] for name in declared}
    assert declared | NO_RESULT_SECTIONS == set(PARAMS)
    assert declared.isdisjoint(NO_RESULT_SECTIONS)


def test_params_yaml_is_valid_as_it_stands() -> None:
    assert isinstance(load_params(ROOT / "params.yaml"), Params)


@pytest.mark.parametrize("stage", STAGES)
def test_no_value_of_a_person_stands_in_a_command(stage: str) -> None:
    assert not set("$`\\") & set(STAGES[stage]["cmd"]), "a shell reads the command, and would run what the value says"
