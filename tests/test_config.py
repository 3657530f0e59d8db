"""params.yaml is closed: what cannot be meant is refused in one sentence that names the key."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ddpm import config
from ddpm.errors import UserError

GOOD = Path(__file__).parents[1] / "params.yaml"


def written(tmp_path: Path, **changes: Any) -> Path:
    """params.yaml with `section__key=value` changed; a value of `...` removes the key."""
    yaml = YAML()
    params = yaml.load(GOOD.read_text())
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if value is ...:
            del params[section][key]
        elif key:
            params[section][key] = value
        else:
            params[section] = value
    path = tmp_path / "params.yaml"
    yaml.dump(params, path)
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train__batchsize": 3}, "train.batchsize is no known key"),
        ({"trian": {}}, "trian is no known key"),
        ({"train__lr": ...}, "train.lr is missing"),
        ({"train__lr": "fast"}, r"train\.lr is 'fast'"),
        ({"train__batch_size": 12.5}, r"train\.batch_size is 12\.5"),
        ({"train__batch_size": "128"}, r"train\.batch_size is '128'"),
        ({"train__lr": -1.0}, r"train: lr is -1\.0, expected a number above 0"),
        (
            {"schedule__name": "cosin"},
            r"schedule\.name is 'cosin'.*'linear', 'cosine', 'sigmoid' or 'variance_exploding'",
        ),
        ({"schedule__zero_terminal_snr": True, "objective__target": "eps"}, r"objective\.target is eps.*v, x_0 or edm"),
        (
            {"schedule__zero_terminal_snr": True, "sample__sampler": "langevin"},
            r"sample\.sampler is langevin.*holds none",
        ),
        ({"schedule__time": "continuous", "objective__learned_variance": True}, r"schedule\.time to discrete"),
        ({"schedule__time": "continuous", "objective__time_sampling": "importance"}, r"time_sampling is importance"),
        ({"objective__time_sampling": "log_normal"}, r"set schedule\.name to variance_exploding"),
        ({"schedule__name": "variance_exploding"}, r"whose time is continuous"),
        ({"schedule__sigma_min": 100.0}, r"sigma_min is 100\.0, expected below sigma_max \(80\.0\)"),
        ({"network__embedding": "sum"}, r"network\.embedding is 'sum'.*'scale_shift' or 'add'"),
        ({"network__groups": 7}, r"groups is 7, expected a divisor of width \(32\)"),
        ({"sample__images": "many"}, r"sample\.images is 'many'"),
        ({"sample__steps": 2000}, r"sample\.steps is 2000, expected at most schedule\.T \(1000\)"),
        ({"sample__guidance": 2.0, "network__label_dropout": 0.0}, r"label_dropout is 0"),
        ({"sample__sampler": "euler"}, r"sample\.sampler is 'euler'"),
        ({"sample__sampler": "ddpm", "sample__variance": "learned"}, r"objective\.learned_variance is false"),
        ({"objective__bounded": True, "sample__threshold": 0.99}, r"set threshold to null"),
        ({"sample__variance": "large"}, r"variance is large, but sampler dpmpp_2m has none to choose"),
        ({"sample__guide": "weaker.safetensors"}, r"guide is given, but guidance is 1"),
        ({"sample__guidance_interval": [2.0, 1.0]}, r"guidance_interval is \[2\.0, 1\.0\], expected \[low, high\]"),
        ({"sample__churn_range": [-1.0, None]}, r"churn_range is \[-1\.0, None\]"),
        ({"sample__guidance_rescale": 1.5}, r"guidance_rescale is 1\.5"),
        ({"sample__threshold": 99.5}, r"threshold is 99\.5, expected a share"),
        ({"sample__sampler": "langevin", "sample__langevin_steps": 25}, r"langevin takes langevin_steps \(25\)"),
        ({"sample__order": 4}, r"sample\.order is 4"),
        ({"train__warmup_images": 10**9}, r"warmup_images \+ decay_images"),
        ({"data__source": "imagenet"}, r"source is 'imagenet', expected digits, folder, archive or torchvision:NAME"),
        (
            {"data__path": "s3://bucket/photos"},
            r"path is 's3://bucket/photos', expected a folder or file of this machine",
        ),
        ({"data__path": ""}, r"path is '', expected a folder"),
        ({"validate__brightness": [200.0, 3.0]}, r"brightness is \[200\.0, 3\.0\]"),
    ],
)
def test_a_mistake_is_refused_with_the_key_that_holds_it(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        config.load(written(tmp_path, **changes))
    assert "\n" not in str(refusal.value)


def test_1e_4_is_a_number_as_it_is_for_dvc(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = GOOD.read_text()
    line = next(
        line for line in text.splitlines() if line.strip().startswith("lr:") and line in text.split("train:")[1]
    )
    path.write_text(text.replace(line, "  lr: 1e-4"))
    assert config.load(path).train.lr == 1e-4


def test_a_missing_file_and_a_broken_one_are_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not found; run from the project's folder"):
        config.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="is no YAML"):
        config.load(tmp_path / "params.yaml")


def test_sections_travel_as_plain_values(tmp_path: Path) -> None:
    network = config.as_dict(config.load(GOOD).network)
    assert isinstance(network["multipliers"], list)
