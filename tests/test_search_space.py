"""The space of a search is checked like an overlay, before any training."""

from pathlib import Path

import pytest

from ddpm import search_space
from ddpm.errors import UserError

PARAMS = Path(__file__).parents[1] / "params.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "space.yaml"
    path.write_text(text)
    return path


def test_a_space_names_ranges_and_choices(tmp_path: Path) -> None:
    space = search_space.read(
        written(
            tmp_path,
            "train: {lr: {low: 0.0005, high: 0.01, log: true}, batch_size: {low: 64, high: 256, step: 64}}\n"
            "network: {multipliers: [[1, 2], [1, 2, 2]], dropout: {low: 0.0, high: 0.2}}\n",
        ),
        PARAMS,
    )
    optuna = pytest.importorskip("optuna")
    given = {"train.lr": 0.003, "train.batch_size": 192, "network.multipliers": "[1, 2, 2]", "network.dropout": 0.1}
    assert space.suggested(optuna.trial.FixedTrial(given)) == {
        "train": {"lr": 0.003, "batch_size": 192},
        "network": {"multipliers": [1, 2, 2], "dropout": 0.1},
    }


def test_the_present_settings_are_a_trial_only_if_the_space_has_them(tmp_path: Path) -> None:
    values = {"train": {"lr": 0.002, "batch_size": 128}}
    lr = "train: {lr: {low: 0.001, high: 0.01}, batch_size: %s}\n"
    inside = search_space.read(written(tmp_path, lr % "[64, 128]"), PARAMS)
    assert inside.present(values) == {"train.lr": 0.002, "train.batch_size": "128"}
    outside = search_space.read(written(tmp_path, lr % "[64, 256]"), PARAMS)
    assert outside.present(values) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("train: {rate: [1.0, 2.0]}", "train.rate is no key of"),
        ("train: {lr: 0.002}", "expected a list of values or {low: …, high: …}"),
        ("train: {lr: [0.002]}", "expected two or more different values"),
        ("train: {lr: [0.002, 0.002]}", "expected two or more different values"),
        ("train: {lr: {low: 0.01, high: 0.001}}", "low below high"),
        ("train: {lr: {low: 0.01}}", "expected two finite numbers"),
        ("train: {lr: {low: 0.0, high: 0.1, log: true}}", "low above 0 for true"),
        ("train: {lr: {low: 0.001, high: 0.1, scale: log}}", "train.lr.scale is not known"),
        ("train: {batch_size: {low: 64, high: 256, step: 100}}", "expected a part of high - low"),
        ("train: {lr: {low: -0.1, high: 0.1}}", "lr is -0.1, expected"),
        ("train: {batch_size: {low: 0.5, high: 64.0}}", "batch_size is 0.5, expected a whole number"),
        ("objective: {target: [v, epsilon]}", "objective.target is 'epsilon', expected"),
        ("train: {seed: {low: 0, high: 9}}", "would choose the luckiest seed"),
        ("sample: {images: [100, 200]}", "would measure each trial another way"),
        ("evaluate: {neighbours: [3, 5]}", "evaluate may not be searched"),
        ("data: {test_fraction: [0.1, 0.2]}", "data may not be searched"),
        ("train: {}", "names no key"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_with_the_key_and_the_remedy(
    text: str, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        search_space.read(written(tmp_path, text + "\n"), PARAMS)
    assert sentence in str(refused.value)
    assert "space.yaml" in str(refused.value)


def test_values_that_are_valid_only_together_are_not_refused(tmp_path: Path) -> None:
    text = "sample: {guidance: [1.5, 3.0], guidance_rescale: [0.0, 0.7]}\n"
    assert len(search_space.read(written(tmp_path, text), PARAMS).dimensions) == 2
