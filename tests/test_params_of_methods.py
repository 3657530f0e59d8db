"""What method vae or gan does not read is refused where it switches something on, and named otherwise."""

from pathlib import Path
from typing import Any

import pytest

from ddpm import unread_settings, yaml_file
from ddpm.errors import UserError
from ddpm.params import Params, validate

GOOD = yaml_file.read(Path(__file__).parents[1] / "params.yaml")


def params(method: str, **sections: dict[str, Any]) -> Params:
    changed = {name: GOOD[name] | values for name, values in sections.items()}
    return validate(GOOD | {"method": method} | changed, source="params.yaml")


@pytest.mark.parametrize("method", ["vae", "gan"])
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("sample", "guidance", 2.0),
        ("sample", "threshold", 0.9),
        ("train", "time_sampling", "log_normal"),
        ("train", "start", "champion"),
        ("train", "augment", {"probability": 0.1, "transforms": ["rotate"]}),
        ("train", "optimizer", "muon"),
        ("runtime", "parallel", "fsdp"),
    ],
)
def test_a_setting_of_diffusion_is_refused(method: str, section: str, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^params\.yaml: {section}\.{key}.* is .*method") as error:
        params(method, **{section: {key: value}})
    assert "method to diffusion" in str(error.value)


def test_bits_per_dimension_are_refused_for_a_gan_alone() -> None:
    with pytest.raises(UserError, match=r"evaluate\.bits_per_dim is 10, which nothing reads where method is gan"):
        params("gan", evaluate={"bits_per_dim": 10})
    params("vae", evaluate={"bits_per_dim": 10})


def test_the_unread_sections_are_named_once_and_not_warned_of() -> None:
    found = params("vae", objective={"weight": "simple", "min_snr_gamma": 3.0})
    assert unread_settings.warned(found) == []
    assert "reads section vae, neither schedule, objective, network nor gan" in str(unread_settings.noted(found))
    assert unread_settings.noted(params("diffusion")) is None


def test_direct_is_no_sampler_that_a_setting_can_choose() -> None:
    with pytest.raises(UserError, match=r"sampler is direct, which models of other methods than diffusion have"):
        params("diffusion", sample={"sampler": "direct"})
