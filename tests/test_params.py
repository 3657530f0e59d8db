"""params.yaml is closed: what cannot be meant is refused in one sentence that names the key."""

import ast
import dataclasses
import inspect
import itertools
import re
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from ruamel.yaml import YAML

from ddpm import unread_settings
from ddpm.errors import UserError
from ddpm.params import Params, validate
from ddpm.params import load as load_params
from ddpm.settings import as_dict

GOOD = Path(__file__).parents[1] / "params.yaml"


def written(tmp_path: Path, **changes: Any) -> Path:
    """params.yaml with `section__key=value` changed, or `section__block__key`; a value of `...` removes the key."""
    yaml = YAML()
    params = yaml.load(GOOD.read_text())
    for name, value in changes.items():
        *above, key = name.split("__")
        section = reduce(getitem, above, params)
        if value is ...:
            del section[key]
        else:
            section[key] = value
    path = tmp_path / "params.yaml"
    yaml.dump(params, path)
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train__batchsize": 3}, "train.batchsize is not a known key"),
        ({"trian": {}}, "trian is not a known key"),
        ({"train__lr": ...}, "train.lr is missing"),
        ({"train__lr": "fast"}, r"train\.lr is 'fast', expected a number$"),
        ({"train__batch_size": 12.5}, r"train\.batch_size is 12\.5, expected a whole number$"),
        ({"train__batch_size": "128"}, r"train\.batch_size is '128'"),
        ({"data__size": [32]}, r"data\.size is \[32\], expected a whole number or null$"),
        ({"data__channels": 2}, r"data: channels is 2, expected 1, 3 or null$"),
        ({"data__labels": None}, r"data\.labels is null, expected true or false$"),
        ({"promote__name": 3}, r"promote\.name is 3, expected text$"),
        ({"train": [1]}, r": train is \[1\], expected a mapping of keys and values$"),
        ({"sample__unipc": 3}, r"sample\.unipc is 3, expected a mapping of keys and values$"),
        ({"train__log_normal": [0.0]}, r"train\.log_normal is \[0\.0\], expected a list of 2 values$"),
        ({"train__log_normal": [0.0, True]}, r"train\.log_normal\.1 is true, expected a number$"),
        ({"train__augment__transforms": "mirror"}, r"train\.augment\.transforms is 'mirror', expected a list$"),
        ({"train__lr": -1.0}, r"train: lr is -1\.0, expected a number above 0"),
        (
            {"schedule__name": "cosin"},
            r"schedule\.name is 'cosin', expected linear, cosine, sigmoid, variance_exploding or linear_path",
        ),
        ({"schedule__zero_terminal_snr": True, "objective__target": "eps"}, r"target is eps.*v, x_0, edm or"),
        (
            {"schedule__name": "linear_path", "schedule__time": "continuous", "objective__target": "eps"},
            r"target is eps, but with schedule\.name linear_path",
        ),
        (
            {"schedule__zero_terminal_snr": True, "sample__sampler": "langevin"},
            r"sample\.sampler is langevin.*share is 0 at x_T",
        ),
        ({"schedule__time": "continuous", "objective__learned_variance": True}, r"schedule\.time to discrete"),
        ({"schedule__time": "continuous", "train__time_sampling": "importance"}, r"time_sampling is importance"),
        ({"schedule__name": "variance_exploding"}, r"whose time is continuous"),
        ({"schedule__name": "linear_path"}, r"name is linear_path, whose time is continuous"),
        (
            {"schedule__name": "linear_path", "schedule__time": "continuous", "schedule__zero_terminal_snr": True},
            r"ends in pure noise already; set zero_terminal_snr to false",
        ),
        ({"schedule__sigma_min": 100.0}, r"sigma_min is 100\.0, expected below sigma_max \(80\.0\)"),
        ({"network__embedding": "sum"}, r"network\.embedding is 'sum', expected scale_shift or add"),
        ({"network__groups": 7}, r"groups is 7, expected a divisor of width \(32\)"),
        ({"sample__images": "many"}, r"sample\.images is 'many', expected a whole number or auto$"),
        ({"sample__steps": 2000}, r"sample\.steps is 2000, expected at most schedule\.T \(1000\)"),
        ({"sample__langevin__steps": 1001}, r"sample\.langevin\.steps is 1001, expected at most schedule\.T \(1000\)"),
        ({"sample__predictor_corrector__steps": 1001}, r"sample\.predictor_corrector\.steps is 1001, expected at most"),
        (
            {"schedule__time": "continuous", "sample__steps": 10**7},
            r"sample\.steps is 10000000, expected at most 1000000",
        ),
        ({"sample__guidance": 2.0, "train__label_dropout": 0.0}, r"label_dropout is 0"),
        ({"sample__sampler": "euler"}, r"sample: sampler is 'euler', expected one of ddpm, ddim, heun"),
        ({"sample__time_grid": "even"}, r"sample: time_grid is 'even', expected one of uniform, quadratic"),
        ({"sample__ddim__churn": 1.0}, r"sample\.ddim\.churn is not a known key"),
        ({"sample__heun__churn": ...}, r"sample\.heun\.churn is missing"),
        ({"sample__ddim__eta": 1.1}, r"sample\.ddim: eta is 1\.1"),
        ({"sample__langevin__snr": 0.0}, r"sample\.langevin: snr is 0\.0"),
        ({"sample__karras__rho": 0.0}, r"sample\.karras: rho is 0\.0"),
        (
            {"sample__ddpm__variance": "learned"},
            r"sample\.ddpm\.variance is learned, but objective\.learned_variance is false",
        ),
        ({"objective__bounded": True, "sample__threshold": 0.99}, r"set threshold to null"),
        ({"sample__guide": "weaker.safetensors"}, r"sample\.guide is weaker.*sample\.guidance is 1\.0; set"),
        (
            {"sample__guidance_interval": [2.0, 1.0]},
            r"interval is \[2\.0, 1\.0\], expected .* above low and up to high",
        ),
        ({"sample__heun__churn_range": [-1.0, None]}, r"sample\.heun: churn_range is \[-1\.0, None\]"),
        ({"sample__guidance_rescale": 1.5}, r"guidance_rescale is 1\.5"),
        ({"sample__threshold": 99.5}, r"threshold is 99\.5, expected a share"),
        ({"sample__sampler": "langevin", "sample__langevin__steps": 25}, r"langevin takes langevin\.steps \(25\)"),
        ({"sample__unipc__order": 4}, r"sample\.unipc: order is 4, expected 1, 2 or 3"),
        ({"train__warmup_images": 10**9}, r"warmup_images \+ decay_images"),
        (
            {"data__source": "imagenet"},
            r"source is 'imagenet', expected digits, digit_pairs, folder, archive or torchvision:NAME",
        ),
        (
            {"data__path": "s3://bucket/photos"},
            r"path is 's3://bucket/photos', expected a local folder or file",
        ),
        ({"data__path": ""}, r"path is '', expected a local folder"),
        ({"validate__brightness": [200.0, 3.0]}, r"brightness is \[200\.0, 3\.0\]"),
        ({"train__lr": float("nan")}, r"train\.lr is nan, expected a finite number"),
        ({"schedule__sigma_max": float("inf")}, r"schedule\.sigma_max is inf, expected a finite number"),
        ({"validate__brightness": [2.0, float("inf")]}, r"validate\.brightness\.1 is inf, expected a finite number"),
        ({"network__width": float("nan")}, r"network\.width is nan, expected a whole number"),
        ({"network__multipliers": [1, -2]}, r"network: multipliers is \[1, -2\], expected whole numbers of 1 or above"),
        ({"network__multipliers": [0]}, r"multipliers is \[0\]"),
        ({"network__multipliers": [1] * 40}, r"multipliers has 40 resolutions"),
        ({"network__attention": [-4]}, r"attention is \[-4\]"),
        ({"network__dropout": 1.0}, r"dropout is 1\.0"),
        ({"schedule__T": 10**12}, r"T is 1000000000000, expected 2 to 1000000 steps"),
        ({"train__decay_images": -1}, r"train: decay_images is -1, expected 0 or above"),
        ({"train__beta2": 1.0}, r"beta2 is 1\.0"),
        ({"train__seed": -1}, r"seed is -1"),
        ({"train__augment__probability": 1.0}, r"train\.augment: probability is 1\.0, expected 0 or more and below 1"),
        ({"train__augment__transforms": ["turn"]}, r"train\.augment\.transforms\.0 is 'turn'"),
        ({"train__augment__transforms": ["scale", "scale"]}, r"expected each one once"),
        ({"train__augment__probability": 0.1, "train__augment__transforms": []}, r"but transforms is empty; name some"),
        (
            {"train__flip": True, "train__augment": {"probability": 0.1, "transforms": ["mirror"]}},
            r"train: flip is true.*set flip to false or remove mirror",
        ),
        ({"validate__max_test_duplicates": -1}, r"max_test_duplicates is -1"),
        ({"features__extractor": "inception"}, r"extractor is inception, but inception_weights is null"),
        ({"features__second": "dinov2"}, r"second is dinov2, but dinov2_weights is null"),
        (
            {"features__extractor": "rotation", "features__second": "rotation"},
            r"second is rotation, which is the first",
        ),
        (
            {"features__inception_weights": "w.pth", "features__second": "inception"},
            r"second is inception, which is the first",
        ),
        ({"data__labels": False, "features__second": "classifier"}, r"features\.second is classifier, which needs"),
        ({"sample__images": 50}, r"sample\.images is 50, but evaluate\.kid_subset_size needs at least 100"),
        ({"promote__name": "a/b"}, r"promote: name is 'a/b'"),
        ({"data__labels": False, "evaluate__augmentation": True}, r"augmentation is true, which needs classes"),
        ({"data__labels": False, "features__extractor": "classifier"}, r"extractor is classifier, which needs classes"),
        ({"data__labels": False, "sample__guidance": 2.0}, r"sample\.guidance is 2, which needs classes"),
        ({"runtime__processes": 200}, r"train\.batch_size is 128, expected at least runtime\.processes \(200\)"),
        ({"network__width": 104, "network__multipliers": [1]}, r"head_channels is 32, which divides the 104 channels"),
        ({"tracking__experiment": " "}, r"tracking: experiment is ' ', expected a name"),
        ({"runtime__cluster": "somewhere"}, r"cluster is 'somewhere', expected an address"),
        ({"train__lr": "x" * 10_000}, r"train\.lr is 'x{5,20}\.\.\.x{5,20}', expected"),
    ],
)
def test_a_mistake_is_refused_with_the_key_that_holds_it(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        load_params(written(tmp_path, **changes))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sample__heun__churn_range": [0.1, None]},
         "sample.heun: churn_range is [0.1, None], which nothing reads where churn is 0; "
         "set churn_range to [0, null] or churn above 0"),
        ({"sample__guidance_interval": [0.1, 5.0]}, "which nothing reads where sample.guidance is 1.0"),
        ({"sample__guidance_rescale": 0.5}, "which nothing reads where sample.guidance is 1.0"),
        ({"features__extractor": "rotation", "features__inception_weights": "weights.pth"}, "to auto or inception"),
        ({"features__dinov2_weights": "weights.pth"}, "features.second to dinov2"),
    ],
)  # fmt: skip
def test_what_is_switched_on_where_nothing_reads_it_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        load_params(written(tmp_path, **changes))


def rules(figure: str, **requirement: float) -> list[dict[str, Any]]:
    return [{"figure": "fid", "better_by": 0.02}, {"figure": figure, **requirement}]


@pytest.mark.parametrize(
    ("figure", "changes", "says"),
    [
        ("fid_second", {}, "which nothing measures where features.second is null; set features.second to another ext"),
        ("kid_second", {}, "a rule for kid_second, which nothing measures where features.second is null"),
        ("bits_per_dim_bound", {}, "where evaluate.bits_per_dim is 0; set evaluate.bits_per_dim to a number of held-"),
        ("bits_per_dim_bound", {"method": "gan"}, "where method is gan; set method to diffusion or vae, or remove the"),
        ("bits_per_dim_ode", {"method": "vae", "evaluate__bits_per_dim": 50}, "where method is vae; set method to dif"),
        ("classes_covered", {"features__extractor": "rotation"}, "where features.extractor is rotation; set features."),
        ("inception_score", {"data__labels": False}, "where features.extractor is auto and features.inception_weights"),
    ],
)  # fmt: skip
def test_a_rule_about_a_metric_that_nothing_will_measure_is_refused_before_the_training(
    tmp_path: Path, figure: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=re.escape(says)) as refusal:
        load_params(written(tmp_path, promote__rules=rules(figure, at_most=1.0), **changes))
    assert f"promote.rules has a rule for {figure}" in str(refusal.value)
    assert "or remove the rule" in str(refusal.value)


def test_likelihoods_compare_only_by_two_images_or_more(tmp_path: Path) -> None:
    one = {"promote__rules": rules("bits_per_dim_bound", better_by=0.0), "evaluate__bits_per_dim": 1}
    with pytest.raises(UserError, match=r"set evaluate\.bits_per_dim to 2 or more$"):
        load_params(written(tmp_path, **one))
    load_params(written(tmp_path, **one | {"evaluate__bits_per_dim": 2}))


@pytest.mark.parametrize(
    ("figure", "changes"),
    [
        ("fid_second", {"features__second": "rotation"}),
        ("bits_per_dim_bound", {"method": "vae", "evaluate__bits_per_dim": 1}),
        ("bits_per_dim_ode", {"evaluate__bits_per_dim": 1}),
        ("inception_score", {"data__labels": False, "features__inception_weights": "w.pth"}),
        ("classes_covered", {"features__extractor": "classifier"}),
        ("seconds_per_image", {}),
    ],
)
def test_a_rule_about_a_metric_that_is_measured_is_accepted(
    tmp_path: Path, figure: str, changes: dict[str, Any]
) -> None:
    load_params(written(tmp_path, promote__rules=rules(figure, at_most=1.0), **changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective__p2_gamma": 0.5}, "set objective.p2_gamma to 1 or objective.weight to p2"),
        ({"objective__sigma_data": 0.3}, "where objective.target is v and objective.weight is min_snr; "
                                         "set objective.sigma_data to 0.5 or objective.target to edm or"),
        ({"schedule__sigma_min": 0.01}, "schedule.name to variance_exploding"),
        ({"data__size": 32}, "network.attention has [4], but images of 32 pixels have [32, 16] positions"),
    ],
)  # fmt: skip
def test_a_number_that_nothing_reads_and_attention_that_is_nowhere_are_warned_of(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    (warning,) = unread_settings.warned(load_params(written(tmp_path, **changes)))
    assert says in warning


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sample__sampler": "ddim", "sample__ddim__eta": 1.0},
        {"sample__heun__churn": 1.0, "sample__heun__churn_range": [0.1, None]},  # for who asks for heun
        {"sample__guidance": 0.0, "sample__guidance_interval": [0.1, 5.0]},
        {"objective__target": "edm", "objective__sigma_data": 0.3},
        {"data__size": 8},
        {"data__size": 28, "network__patch": 2, "network__attention": [7]},
        {"schedule__name": "linear"},
        {"schedule__name": "variance_exploding", "schedule__time": "continuous", "schedule__sigma_max": 50.0},
    ],
)
def test_what_is_read_is_not_complained_of(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert unread_settings.warned(load_params(written(tmp_path, **changes))) == []


@pytest.mark.parametrize("size", [7, 8, 30])
@pytest.mark.parametrize(("patch", "levels"), [(1, 1), (1, 2), (2, 2), (2, 3), (4, 2)])
def test_attention_is_called_idle_just_where_the_network_has_none(size: int, patch: int, levels: int) -> None:
    from ddpm.networks.unet import UNet

    network = {"patch": patch, "multipliers": (1,) * levels, "width": 8, "head_channels": 8, "blocks": 1}
    plain = load_params(GOOD)
    for resolution in range(1, size + 1):
        told = dataclasses.replace(plain.network, attention=(resolution,), **network)
        params = dataclasses.replace(plain, network=told)
        with torch.device("meta"):
            unet = UNet(channels=1, size=size, classes=0, dropout=0.0, attention=(resolution,), **network)
        has = any(stage.attention is not None for stage in unet.down)
        assert (unread_settings.attention(params, size) == []) == has


def test_true_and_false_are_no_numbers() -> None:
    values = YAML(typ="safe").load(GOOD.read_text())
    taken = {}
    for section, settings in values.items():
        for key, value in settings.items() if isinstance(settings, dict) else ():
            for block, name in [
                (settings, key),
                *((value, below) for below in (value if isinstance(value, dict) else ())),
            ]:
                before = block[name]
                if isinstance(before, int | float) and not isinstance(before, bool):
                    block[name] = True
                    with pytest.raises(UserError, match=rf"{section}\.(\w+\.)?{name} is true, expected"):
                        validate(values, source="params.yaml")
                    taken[name] = block[name] = before
    assert {"steps", "order", "lr", "max_work"} <= taken.keys()


def declared_fields(cls: type, seen: dict[str, list[str]], prefix: str) -> None:
    """Adds, for every key, what its declarations give it: the type's choices, a docstring, a check of its range."""
    types = get_type_hints(cls)
    for base in cls.__mro__[:-1]:
        (node,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(node, ast.ClassDef)
        checks = [ast.unparse(part) for part in node.body if isinstance(part, ast.FunctionDef)]
        for field, after in itertools.pairwise([*node.body, None]):
            if not isinstance(field, ast.AnnAssign):
                continue
            name = ast.unparse(field.target)
            if dataclasses.is_dataclass(types[name]):
                declared_fields(types[name], seen, f"{prefix}{name}.")
                continue
            meaning = isinstance(after, ast.Expr) or types[name] is bool or "Literal" in str(types[name])
            ranged = any(re.search(rf"['.]{name}\b", check) for check in checks)
            seen.setdefault(prefix + name, []).append("meaning or range" if meaning or ranged else "neither")


def keys_in(values: Any, prefix: str = "") -> set[str]:
    if not isinstance(values, dict):
        return {prefix.removesuffix(".")}
    return set().union(*(keys_in(value, f"{prefix}{key}.") for key, value in values.items()))


def test_every_key_is_declared_once_in_the_settings_of_a_room_with_a_meaning_or_a_range() -> None:
    declared: dict[str, list[str]] = {}
    for name, cls in get_type_hints(Params).items():
        if name in ("method", "condition", "codec"):  # the keys that are no sections
            declared[name] = ["meaning or range"]
            continue
        assert cls.__module__.endswith(".settings")
        declared_fields(cls, declared, f"{name}.")
    assert set(declared) == keys_in(YAML(typ="safe").load(GOOD.read_text()))
    assert {key: found for key, found in declared.items() if found != ["meaning or range"]} == {}


def test_1e_4_is_a_number_as_it_is_for_dvc(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = GOOD.read_text()
    line = next(
        line for line in text.splitlines() if line.strip().startswith("lr:") and line in text.split("train:")[1]
    )
    path.write_text(text.replace(line, "  lr: 1e-4"))
    assert load_params(path).train.lr == 1e-4


def test_a_missing_file_and_a_broken_one_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not found; run from the project's folder"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="is not YAML"):
        load_params(tmp_path / "params.yaml")


def test_sections_travel_as_plain_values(tmp_path: Path) -> None:
    network = as_dict(load_params(GOOD).network)
    assert isinstance(network["multipliers"], list)
