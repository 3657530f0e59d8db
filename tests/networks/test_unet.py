"""The U-Net accepts any size and number of channels, depends on t and the label, and starts with output zero."""

import pytest
import torch

from ddpm.compute.hardware import Precision, autocast, memory_format
from ddpm.networks.ema import Ema
from ddpm.networks.shapes import shapes_of
from ddpm.networks.unet import UNet


def unet(*, channels: int = 1, size: int = 8, classes: int = 3, **changes: object) -> UNet:
    torch.manual_seed(0)
    architecture: dict = dict(width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0.0)
    return UNet(channels=channels, size=size, classes=classes, **architecture | changes)


def awakened(network: UNet) -> UNet:
    """Replace zero weights, so that every path contributes to the output."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


VARIANTS = [{"embedding": e, "resample": r} for e in ("scale_shift", "add") for r in ("residual", "conv")]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (13, 10), (32, 32)])
def test_output_has_the_shape_of_the_input(channels: int, shape: tuple[int, int], variant: dict[str, str]) -> None:
    network = unet(channels=channels, size=shape[0], multipliers=(1, 2, 2), **variant)
    x = torch.randn(2, channels, *shape)
    assert network(x, torch.tensor([1.0, 900.0]), torch.tensor([0, 2])).shape == x.shape


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_it_starts_by_predicting_zero(variant: dict[str, str]) -> None:
    network = unet(**variant)
    assert torch.equal(network(torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0])), torch.zeros(2, 1, 8, 8))


def test_without_memory_a_step_can_be_counted() -> None:
    """On the meta device, where nothing is computed, as benchmarks count the arithmetic of a large network."""
    with torch.device("meta"):
        network = unet(classes=2)
        x, t, labels = torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long)
    network(x, t, labels).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_shapes_of_the_weights_are_known_without_drawing_any() -> None:
    of_unet = {"channels": 1, "size": 8, "classes": 3, "width": 8, "multipliers": (1, 2), "blocks": 1}
    of_unet |= {"attention": (4,), "head_channels": 8, "dropout": 0.0}
    before = torch.get_rng_state()
    shapes = shapes_of(lambda: UNet(**of_unet))
    assert torch.equal(torch.get_rng_state(), before)
    assert shapes == {name: weight.shape for name, weight in UNet(**of_unet).state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_it_sees_time_and_label(variant: dict[str, str]) -> None:
    network = awakened(unet(**variant))
    x = torch.randn(1, 1, 8, 8)
    early, late = torch.tensor([10.0]), torch.tensor([900.0])
    one, two = torch.tensor([1]), torch.tensor([2])
    assert not torch.allclose(network(x, early, one), network(x, late, one))
    assert not torch.allclose(network(x, early, one), network(x, early, two))


def test_no_label_is_the_null_label() -> None:
    network = awakened(unet(classes=3))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([10.0, 20.0])
    assert torch.equal(network(x, t, None), network(x, t, torch.tensor([3, 3])))


def test_data_without_classes_has_no_label_embedding() -> None:
    network = awakened(unet(classes=0))
    assert network.label is None
    assert network(torch.randn(1, 1, 8, 8), torch.tensor([5.0])).shape == (1, 1, 8, 8)


def test_attention_stands_only_at_the_chosen_resolutions_and_in_the_middle() -> None:
    def count(network: UNet) -> int:
        return sum(type(module).__name__ == "SelfAttention" for module in network.modules())

    assert count(unet(attention=())) == 1
    assert count(unet(attention=(4,), blocks=2)) == 1 + 2 + 3
    assert count(unet(attention=(8, 4), blocks=2)) == 1 + 2 * (2 + 3)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    network = awakened(unet())
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1.0, 50.0, 700.0])
    assert torch.allclose(network(x, t)[1:2], network(x[1:2], t[1:2]), atol=1e-5)


def test_ema_halves_the_old_weights_after_its_half_life() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)
    ema = Ema(network, halflife_images=1000)
    torch.nn.init.constant_(network.weight, 0.0)
    for _ in range(10):
        ema.update(network, images_seen=10**9, batch_size=100, skipped=torch.tensor(False))
    assert ema.network.weight.item() == pytest.approx(0.5, rel=1e-5)


def test_ema_follows_quickly_at_the_start() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)
    ema = Ema(network, halflife_images=10**6)
    torch.nn.init.constant_(network.weight, 0.0)
    ema.update(network, images_seen=1000, batch_size=100, skipped=torch.tensor(False))
    assert ema.network.weight.item() == pytest.approx(0.5 ** (100 / 50), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "variant", "precision", "threads"),
    [
        *((8, variant, "float32", 1) for variant in VARIANTS),
        (20, VARIANTS[0], "float32", 1),
        (8, {"patch": 2}, "float32", 1),
        pytest.param(8, VARIANTS[0], "float32", 2, marks=pytest.mark.slow),
        (8, VARIANTS[0], "bf16", 1),
        (20, VARIANTS[3], "bf16", 1),
    ],
)
def test_an_image_is_the_same_to_the_bit_in_any_batch_where_nothing_is_learned(
    size: int, variant: dict[str, str], precision: Precision, threads: int
) -> None:
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(threads)
    network = awakened(unet(size=size, width=32, attention=(size, size // 2), **variant)).eval()
    network.to(memory_format=memory_format(cpu, precision))
    x, t, labels = torch.randn(18, 1, size, size), torch.full((18,), 37.0), torch.arange(18) % 3
    with torch.inference_mode(), autocast(cpu, precision):
        made = {
            n: torch.cat([network(*(v[k : k + n] for v in (x, t, labels))) for k in range(0, 18, n)])
            for n in (1, 2, 3, 7, 18)
        }
    torch.set_num_threads(before)
    assert [n for n, images in made.items() if not torch.equal(images, made[18])] == []


def test_where_nothing_is_learned_many_images_become_what_they_become_in_training() -> None:
    network = awakened(unet(width=32)).eval()
    x, t = torch.randn(32, 1, 8, 8), torch.full((32,), 37.0)
    with torch.inference_mode():
        drawn = network(x, t)
    assert torch.equal(drawn, network(x, t).detach())
