"""A model saved by diffusers gives the same x_0 for the same x_t here, and a model of this project does so there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_unet import SMALL
from torch import Tensor

from ddpm import cli, model_file

# The angle of a sinusoid near t = 1000 is a float32 with steps of 6e-5, and the two count t from 0 and from 1.
TOLERANCE = 2e-4
EXPORTABLE: dict[str, Any] = {  # settings that replace those of `tiny_model`
    "schedule": {"name": "cosine", "T": 1000},
    "network": {
        "width": 16,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [4],
        "head_channels": 8,
        "dropout": 0.0,
        "groups": 8,
    },
}
BOUNDED: dict[str, Any] = {"objective": {"target": "v", "weight": "simple", "min_snr_gamma": 5.0, "bounded": True}}
STEPS = torch.tensor([1, 2, 250, 600, 998])  # at 1000, 1/alpha is 150 and amplifies rounding


def saved_unet(folder: Path, **changes: Any) -> diffusers.UNet2DModel:
    torch.manual_seed(0)
    told: dict[str, Any] = SMALL | {"flip_sin_to_cos": False, "freq_shift": 1} | changes
    unet = diffusers.UNet2DModel(**told).eval()
    unet.save_pretrained(folder)
    return unet


def said_there(unet: Any, scheduler: Any, x_t: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return x_0 at STEPS, unclipped, computed by diffusers, whose steps start at 0."""
    scheduler.config.clip_sample = False
    with torch.no_grad():
        answer = unet(x_t, STEPS - 1, class_labels=labels).sample
    pairs = zip(answer, STEPS, x_t, strict=True)
    return torch.cat([scheduler.step(a[None], int(t) - 1, x[None]).pred_original_sample for a, t, x in pairs])


def said_here(file: Path, x_t: Tensor, labels: Tensor | None = None) -> Tensor:
    return model_file.load(file).estimator()(x_t, STEPS, labels).x_0


def alike(a: Tensor, b: Tensor) -> bool:
    assert a.std() > 0.1
    return torch.allclose(a, b, atol=TOLERANCE, rtol=TOLERANCE)


def noise(channels: int = 1) -> Tensor:
    return torch.randn(5, channels, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
        {"prediction_type": "sample"},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ],
    ids=str,
)
def test_a_pipeline_of_theirs_is_imported_with_its_schedule_and_draws(tmp_path: Path, told: dict[str, Any]) -> None:
    unet = saved_unet(tmp_path / "pipeline" / "unet", in_channels=3, out_channels=3)
    scheduler = diffusers.DDPMScheduler(**told)
    diffusers.DDPMPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path / "pipeline")
    file = tmp_path / "model.safetensors"
    assert cli.main(["import-unet", str(tmp_path / "pipeline"), "--out", str(file)]) == 0
    assert alike(said_here(file, noise(3)), said_there(unet, scheduler, noise(3)))

    drawn = tmp_path / "images"
    assert cli.main(f"sample --model {file} -n 2 --seed 1 --steps 2 --out {drawn}".split()) == 0
    with Image.open(drawn / "000001.png") as picture:
        assert (picture.size, picture.mode) == ((8, 8), "RGB")


def test_a_network_alone_is_imported_by_options_with_its_classes_and_its_null_label(tmp_path: Path) -> None:
    unet = saved_unet(tmp_path / "unet", num_class_embeds=4)
    file = tmp_path / "model.safetensors"
    words = f"import-unet {tmp_path / 'unet'} --out {file} --schedule cosine --target v --null-label"
    assert cli.main(words.split()) == 0
    scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    labels = torch.tensor([0, 1, 2, 1, 0])
    assert alike(said_here(file, noise(), labels), said_there(unet, scheduler, noise(), labels))
    assert alike(said_here(file, noise()), said_there(unet, scheduler, noise(), torch.full((5,), 3)))
    guided = f"sample --model {file} -n 2 --label 2 --guidance 2 --seed 1 --steps 2 --out {tmp_path / 'i.png'}"
    assert cli.main(guided.split()) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"schedule": {"name": "linear", "T": 1000}},
        {"schedule": {"name": "sigmoid", "T": 1000, "zero_terminal_snr": True}},
        {"schedule": {"name": "linear", "T": 1000}, "classes": [], "channels": 3},
        {"objective": {"target": "eps", "weight": "simple", "min_snr_gamma": 5.0, "learned_variance": True}},
        BOUNDED,
    ],
    ids=str,
)
def test_a_model_of_this_project_is_a_pipeline_there(
    tmp_path: Path, tiny_model: Callable[..., str], changes: dict[str, Any]
) -> None:
    file = tmp_path / "model.safetensors"
    tiny_model(file, **EXPORTABLE | changes)
    assert cli.main(["export-unet", "--model", str(file), "--out", str(tmp_path / "there")]) == 0
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "there")
    classes = len(model_file.load(file).spec.classes)
    labels = torch.tensor([0, 3, classes, 1, 2]) if classes else None
    x_t = noise(model_file.load(file).spec.channels)
    assert alike(said_here(file, x_t, labels), said_there(pipeline.unet, pipeline.scheduler, x_t, labels))
    if not classes:
        images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
        assert images.shape == (2, 8, 8, 3)


@pytest.mark.parametrize("changes", [{}, BOUNDED], ids=["free", "bounded"])
def test_there_and_back_answers_the_same(
    tmp_path: Path, tiny_model: Callable[..., str], changes: dict[str, Any]
) -> None:
    file, again, folder = tmp_path / "model.safetensors", tmp_path / "again.safetensors", tmp_path / "there"
    tiny_model(file, **EXPORTABLE | changes)
    assert cli.main(["export-unet", "--model", str(file), "--out", str(folder)]) == 0
    assert cli.main(["import-unet", str(folder), "--out", str(again), "--null-label"]) == 0
    labels = torch.tensor([0, 3, 4, 1, 2])
    assert alike(said_here(file, noise(), labels), said_here(again, noise(), labels))
    assert model_file.load(again).spec.objective.bounded == bool(changes)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"beta_schedule": "scaled_linear"}, 'beta_schedule is "scaled_linear", expected "linear" or'),
        ({"beta_end": 0.012}, "beta_end is 0.012, expected 0.02"),
        ({"num_train_timesteps": 500}, "num_train_timesteps is 500, expected 1000"),
        ({"trained_betas": [0.1, 0.2]}, r"trained_betas is \[0.1, 0.2\]"),
        ({"prediction_type": "score"}, 'prediction_type is "score"'),
        ({"rescale_betas_zero_snr": True}, 'prediction_type is "epsilon", expected "v_prediction" or "sample"'),
        ({"variance_type": "learned"}, 'variance_type is "learned"'),
        ({"variance_type": "learned_range"}, "out_channels is 1 and in_channels 1"),
    ],
)
def test_a_schedule_that_this_project_has_not_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], told: dict[str, Any], says: str
) -> None:
    saved_unet(tmp_path / "unet")
    options = diffusers.DDPMScheduler().config | told
    (tmp_path / "unet" / "scheduler_config.json").write_text(json.dumps(dict(options)))
    out = tmp_path / "model.safetensors"
    assert cli.main(["import-unet", str(tmp_path / "unet"), "--out", str(out)]) == 1
    assert says.replace("\\", "") in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_that_cannot_be_read_is_refused_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*more: str) -> str:
        assert cli.main(["import-unet", str(tmp_path / "unet"), "--out", str(tmp_path / "m.safetensors"), *more]) == 1
        return capsys.readouterr().err

    assert "has no config.json" in said()
    saved_unet(tmp_path / "unet", act_fn="gelu")
    assert "act_fn is 'gelu'" in said()
    saved_unet(tmp_path / "unet")
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert "is not a complete safetensors file" in said()
    weights.rename(weights.with_suffix(".bin"))
    assert "save the model again with safe_serialization=True" in said()
    (tmp_path / "unet" / "scheduler_config.json").write_text("{")
    assert "leave out --schedule" in said("--schedule", "linear")
    assert "scheduler_config.json is not valid JSON" in said()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": {"name": "cosine", "T": 50}}, "its schedule is not discrete with T 1000"),
        ({"schedule": {"name": "cosine", "T": 1000, "time": "continuous"}}, "its schedule is not discrete"),
        ({"objective": {"target": "edm", "weight": "simple", "min_snr_gamma": 5.0}}, "its target is edm"),
        ({"size": 9}, "size is 9"),
        (
            {"network": EXPORTABLE["network"] | {"groups": None}},
            "only a new training, with network.groups 4, changes that",
        ),
    ],
    ids=str,
)
def test_a_model_that_diffusers_cannot_express_is_refused_in_one_sentence(
    tmp_path: Path,
    tiny_model: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    says: str,
) -> None:
    tiny_model(tmp_path / "model.safetensors", **EXPORTABLE | changes)
    words = ["export-unet", "--model", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "there")]
    assert cli.main(words) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "there").exists()


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error of importing the folder: one sentence, and no file is written."""
    out = folder.parent / "model.safetensors"
    assert cli.main(["import-unet", str(folder), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not out.exists()
    return said


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("block_out_channels", "wide"),
        ("block_out_channels", [16, "32"]),
        ("block_out_channels", [16, 10**9]),
        ("block_out_channels", [1] * 100),
        ("down_block_types", [["DownBlock2D"]]),
        ("down_block_types", 3),
        ("layers_per_block", 10**9),
        ("layers_per_block", None),
        ("norm_num_groups", -8),
        ("norm_num_groups", "8"),
        ("attention_head_dim", 0.5),
        ("norm_eps", float("nan")),
        ("dropout", "none"),
        ("sample_size", {"height": 8}),
        ("sample_size", [[8], [8]]),
        ("sample_size", 10**9),
        ("freq_shift", 1e9),
        ("flip_sin_to_cos", "yes"),
        ("num_class_embeds", -1),
        ("in_channels", True),
        ("resnet_time_scale_shift", ["default"]),
    ],
)
def test_an_option_of_the_wrong_kind_or_of_any_size_is_refused_by_name(
    option: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_unet(tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {option: value}))
    said = refused(tmp_path / "unet", capsys)
    assert option in said
    assert len(said) < 500


def test_a_network_larger_than_its_weights_is_refused_before_memory_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    saved_unet(tmp_path / "unet")
    config = tmp_path / "unet" / "config.json"
    told = json.loads(config.read_text())
    told["block_out_channels"] = [256 * channels for channels in told["block_out_channels"]]
    config.write_text(json.dumps(told))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "both must belong to the same network" in refused(tmp_path / "unet", capsys)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_weights_that_are_no_finite_numbers_or_pickled_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_unet(tmp_path / "unet")
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file(state | {"conv_in.bias": state["conv_in.bias"] * float("nan")}, weights)
    assert "has non-finite numbers in conv_in.bias" in refused(tmp_path / "unet", capsys)
    save_file(state | {"conv_in.bias": state["conv_in.bias"].to(torch.int32)}, weights)
    assert "I32 in conv_in.bias" in refused(tmp_path / "unet", capsys)
    weights.unlink()
    torch.save(state, weights.with_suffix(".bin"))
    assert "safe_serialization=True" in refused(tmp_path / "unet", capsys)


@pytest.mark.parametrize("content", ["[1]", "{", "[" * 100_000, "\x00", " " * 2**21])
def test_a_config_that_is_none_is_refused(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_unet(tmp_path / "unet")
    (tmp_path / "unet" / "config.json").write_text(content)
    assert "config.json" in refused(tmp_path / "unet", capsys)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"clip_sample": False}, "clip_sample is false, expected true"),
        ({"clip_sample_range": 2.0}, "clip_sample_range is 2.0, expected 1.0"),
        ({"clip_sample": "no"}, 'clip_sample is "no"'),
        ({"thresholding": True, "sample_max_value": 1.5}, "sample_max_value is 1.5, expected 1.0"),
        ({"rescale_betas_zero_snr": "yes"}, 'rescale_betas_zero_snr is "yes"'),
    ],
    ids=str,
)
def test_clipping_that_is_not_done_here_is_refused_and_not_forgotten(
    told: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_unet(tmp_path / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "unet")
    file = tmp_path / "unet" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | told))
    assert said in refused(tmp_path / "unet", capsys)
