"""Augmentation: every transformation is what its numbers describe, and the network gets the numbers."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from sklearn.datasets import load_sample_image

from ddpm.diffusion import objectives
from ddpm.diffusion.schedules import make_schedule
from ddpm.images import to_model_range
from ddpm.networks.unet import UNet
from ddpm.params import load as load_params
from ddpm.sampling import samplers
from ddpm.sampling.grids import uniform_grid
from ddpm.training import augmentation, checkpoint
from ddpm.training.augmentation import Transformations, draw, numbers_in, resampled
from ddpm.training.batches import Batches
from ddpm.training.loop import State, new_state, train
from ddpm.training.methods.diffusion import Diffusion
from ddpm.training.settings import Augment, Train
from ddpm.training.times import make_times

CPU = torch.device("cpu")
PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
IMAGES = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8), dtype=np.uint8)
KINDS: Any = ("mirror", "flip", "scale", "rotate", "stretch", "shift")
ALL = Augment(probability=0.4, transforms=KINDS)
SETTINGS = dataclasses.replace(
    PARAMS.train, images=16 * 6, batch_size=16, warmup_images=0, decay_images=0, augment=ALL, label_dropout=0.2
)
ARCHITECTURE: dict[str, Any] = dict(
    channels=1, size=8, classes=3, width=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=8, dropout=0.2
)


def drawn(settings: Augment, n: int, *, seed: int = 0, images_seen: int = 0) -> Transformations:
    found = draw(settings, n, seed=seed, images_seen=images_seen)
    assert found is not None
    return found


def smooth(n: int, size: int) -> torch.Tensor:
    """Random images without fine detail, in which all good interpolations agree: [n,1,size,size] in [-1, 1]."""
    noise = np.random.default_rng(1).normal(size=(n, size, size))
    blurred = ndimage.gaussian_filter(noise, (0, 2.5, 2.5), mode="reflect")
    return torch.from_numpy(blurred / np.abs(blurred).max())[:, None].float()


def described(name: str, numbers: np.ndarray) -> np.ndarray:
    """Return the matrix [2,2], or the shift in sizes [2], that the numbers describe; axes are (x, y), y down."""
    if name == "mirror":
        return np.diag([1 - 2 * numbers[0], 1])
    if name == "flip":
        return np.diag([1, 1 - 2 * numbers[0]])
    if name == "scale":
        return np.eye(2) * 2 ** (0.2 * numbers[0])
    if name == "rotate":
        cos, sin = numbers[0] + 1, numbers[1]
        return np.array([[cos, -sin], [sin, cos]])
    if name == "stretch":  # a symmetric matrix: the exponential of 0.2 ln 2 times a traceless one
        a, b = numbers
        values, vectors = np.linalg.eigh(np.array([[a, b], [b, -a]]))
        return vectors @ np.diag(2 ** (0.2 * values)) @ vectors.T
    return 0.125 * numbers


@pytest.mark.parametrize("name", KINDS)
def test_an_image_is_transformed_as_its_numbers_describe(name: Any) -> None:
    size, n = 24, 12
    images = smooth(n, size)
    of_it = drawn(Augment(probability=0.5, transforms=(name,)), n, seed=3)
    results, numbers = of_it.apply(images, slice(None))
    centre = (size - 1) / 2
    touched = numbers.abs().sum(dim=1) > 0
    assert 0 < int(touched.sum()) < n
    for image, result, row in zip(images[:, 0].numpy(), results[:, 0].numpy(), numbers.double().numpy(), strict=True):
        forward, shift = described(name, row), np.zeros(2)
        if name == "shift":
            forward, shift = np.eye(2), forward * size
        inverse = np.linalg.inv(forward)[::-1, ::-1]  # scipy's axes are (y, x)
        offset = centre - inverse @ (np.array([centre, centre]) + shift[::-1])
        expected = ndimage.affine_transform(image, inverse, offset, order=5, mode="reflect")
        assert np.abs(result - expected).max() < 0.02
    assert torch.equal(results[~touched], images[~touched])
    assert float((results - images)[touched].abs().max()) > 0.2


def test_an_untouched_image_is_returned_exactly_beside_touched_ones() -> None:
    images = to_model_range(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), np.uint8)))
    results, numbers = drawn(Augment(probability=0.2, transforms=KINDS), 64).apply(images, slice(None))
    untouched = (numbers == 0).all(dim=1)
    assert 8 < int(untouched.sum()) < 56
    assert torch.equal(results[untouched], images[untouched])
    assert bool(((results - images).abs().amax(dim=(1, 2, 3)) > 0.1)[~untouched].all())
    assert float(results.abs().max()) <= 1


def test_a_mirrored_or_flipped_image_has_exactly_its_pixels() -> None:
    images = torch.rand(40, 1, 8, 8)
    results, numbers = drawn(Augment(probability=0.5, transforms=("mirror", "flip")), 40).apply(images, slice(None))
    for image, result, (mirrored, flipped) in zip(images, results, numbers.bool().tolist(), strict=True):
        axes = [-1] * mirrored + [-2] * flipped
        assert torch.equal(result, image.flip(axes))
    assert len(numbers.unique(dim=0)) == 4


def test_a_rotation_there_and_back_keeps_photographs_sharp() -> None:
    """Tiles of 32x32 pixels of photographs at a quarter of their size; PSNR within the circle that stays inside."""
    photographs = np.stack([load_sample_image(name)[:384, :640] for name in ("china.jpg", "flower.jpg")])
    small = F.interpolate(torch.from_numpy(photographs).permute(0, 3, 1, 2).float() / 127.5 - 1, scale_factor=0.25)
    tiles = small.unfold(2, 32, 32).unfold(3, 32, 32).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 32, 32)
    place = (torch.arange(32) - 15.5) / 16
    inside = place[:, None] ** 2 + place[None] ** 2 < 0.7
    turn = torch.eye(3).repeat(len(tiles), 1, 1)
    turn[:, 0, 0] = turn[:, 1, 1] = np.cos(0.35)
    turn[:, 0, 1], turn[:, 1, 0] = -np.sin(0.35), np.sin(0.35)

    def bilinear(images: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
        grid = F.affine_grid(matrices[:, :2], list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    def kept(method: Any) -> float:
        back = method(method(tiles, turn), turn.mT)
        return float(10 * torch.log10(4 / (back - tiles)[..., inside].square().mean()))

    assert kept(resampled) > kept(bilinear) + 4
    assert kept(resampled) > 30


def test_each_transformation_is_as_frequent_as_the_probability_and_independent_of_the_others() -> None:
    numbers = drawn(ALL, 4000).numbers
    ends = np.cumsum([1, 1, 1, 2, 2, 2])
    touched = np.stack([(part != 0).any(axis=1) for part in np.split(numbers, ends[:-1], axis=1)])
    assert np.abs(touched.mean(axis=1) - 0.4).max() < 0.03  # standard deviation 0.008
    assert np.abs(np.corrcoef(touched) - np.eye(6)).max() < 0.06
    assert numbers.shape[1] == numbers_in(ALL) == 9


def test_transformations_belong_to_a_position_whatever_the_other_kinds_and_the_division_are() -> None:
    alone, among = drawn(Augment(probability=0.4, transforms=("rotate",)), 16), drawn(ALL, 16)
    assert np.array_equal(alone.numbers, among.numbers[:, 3:5])
    assert not np.array_equal(among.numbers, drawn(ALL, 16, images_seen=16).numbers)
    assert not np.array_equal(among.numbers, drawn(ALL, 16, seed=1).numbers)
    images = smooth(16, 12)
    whole, numbers = among.apply(images, slice(None))
    parts = [among.apply(images[part], part) for part in (slice(0, 5), slice(5, 6), slice(6, 16))]
    assert torch.allclose(torch.cat([x for x, _ in parts]), whole, atol=1e-6)
    assert torch.equal(torch.cat([own for _, own in parts]), numbers)


def test_without_augmentation_nothing_is_drawn_and_the_network_has_no_layer_for_it() -> None:
    none = dataclasses.replace(ALL, probability=0.0)
    assert (draw(none, 16, seed=0, images_seen=0), numbers_in(none)) == (None, 0)
    plain, larger = network(0).state_dict(), network(9).state_dict()
    assert larger.keys() - plain.keys() == {"augmentation.weight"}
    assert all(torch.equal(larger[name], tensor) for name, tensor in plain.items())


def network(augmentation: int) -> UNet:
    torch.manual_seed(0)
    return UNet(**ARCHITECTURE, augmentation=augmentation)


def test_zeros_are_the_same_as_no_augmentation_and_other_numbers_are_not() -> None:
    of_nine = network(9).eval()
    for parameter in of_nine.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1.0, 50.0, 700.0])
    with torch.no_grad():
        without, zeros, ones = (of_nine(x, t, None, *n) for n in ((), (torch.zeros(3, 9),), (torch.ones(3, 9),)))
    assert torch.equal(without, zeros)
    assert float((without - ones).abs().max()) > 1e-2


def steps(state: State, settings: Train, device_batch: int | None = None, *, batches: Batches | None = None) -> Any:
    process = make_schedule("cosine", 100)
    labelled = Batches(IMAGES, np.arange(37) % 3, batch_size=16, seed=0, flip=False, device=CPU)
    return train(
        state,
        batches or labelled,
        method=Diffusion(process, make_times(process, settings, memory=state.times, device=CPU), PARAMS.objective),
        settings=settings,
        device=CPU,
        precision="float32",
        device_batch=device_batch,
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_training_with_augmentation_that_was_stopped_is_bitwise_the_one_that_was_not(
    optimizer: Any, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, optimizer=optimizer)
    undisturbed, stopped, continued = (new_state(network(9), settings=settings) for _ in range(3))
    losses = [step.loss for step in steps(undisturbed, settings)]
    for number, _ in enumerate(steps(stopped, settings), start=1):
        if number == 2:
            checkpoint.save(tmp_path, stopped, fingerprint="f", extra={})
            break
    assert checkpoint.restore(tmp_path, continued, fingerprint="f") == ({}, [])
    assert [step.loss for step in steps(continued, settings)] == losses[2:]
    for one, other in zip(undisturbed.ema.network.parameters(), continued.ema.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert bool((continued.network.augmentation.weight != 0).any(dim=0).all())


def test_the_first_loss_is_that_of_the_transformed_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network predicts 0, so the loss of each image is a function of the image alone."""
    first = next(steps(new_state(network(9), settings=SETTINGS), SETTINGS))
    plain = dataclasses.replace(SETTINGS, augment=dataclasses.replace(ALL, probability=0.0))
    other = next(steps(new_state(network(0), settings=plain), plain))
    touched = torch.from_numpy((drawn(ALL, 16).numbers != 0).any(axis=1))
    assert torch.equal(first.t, other.t)
    assert torch.equal(first.losses[~touched], other.losses[~touched])
    assert bool((first.losses[touched] != other.losses[touched]).all())


def test_the_table_of_kinds_has_every_transform_of_the_settings_in_the_order_of_the_docs() -> None:
    assert tuple(augmentation._KINDS) == KINDS


@pytest.mark.slow
@pytest.mark.parametrize("conditioned", [True, False])
def test_rotations_leak_into_generated_images_only_if_the_network_does_not_get_them(
    conditioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that are brighter above than below, of which four in five are rotated by any angle."""
    random = np.random.default_rng(0)
    contrast, noise = random.uniform(60, 110, (300, 1, 1)), random.normal(0, 5, (300, 8, 8))
    upright = 128 + contrast * np.linspace(1, -1, 8)[None, :, None] + noise
    images = upright.clip(0, 255).astype(np.uint8)[:, None]
    if not conditioned:
        apply = Transformations.apply

        def without_numbers(self: Transformations, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            results, numbers = apply(self, *arguments)
            return results, torch.zeros_like(numbers)

        monkeypatch.setattr(Transformations, "apply", without_numbers)
    rotated = Augment(probability=0.8, transforms=("rotate",))
    settings = dataclasses.replace(
        SETTINGS, images=64 * 500, batch_size=64, warmup_images=640, decay_images=6400, augment=rotated, lr=0.003,
        ema_halflife_images=1000,
    )  # fmt: skip
    process = make_schedule("cosine", 100)
    torch.manual_seed(0)
    changes: dict[str, Any] = {"width": 16, "classes": 0, "dropout": 0.0, "augmentation": numbers_in(rotated)}
    state = new_state(UNet(**ARCHITECTURE | changes), settings=settings)
    for _ in steps(state, settings, batches=Batches(images, None, batch_size=64, seed=0, flip=False, device=CPU)):
        pass

    def denoise(x_t: torch.Tensor, t: torch.Tensor) -> objectives.Estimate:
        return objectives.estimate(PARAMS.objective, lambda x, c: state.ema.network(x, c), process, x_t, t)

    x_T = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        *_, last = samplers.ddim(denoise, process, x_T, uniform_grid(100, 20), lambda: torch.zeros(()), eta=0.0)
    x = last.x_t[:, 0]
    down = x[:, :4].mean(dim=(1, 2)) - x[:, 4:].mean(dim=(1, 2))
    right = x[:, :, 4:].mean(dim=(1, 2)) - x[:, :, :4].mean(dim=(1, 2))
    upright_share = float((down > 2 * right.abs()).float().mean())
    assert upright_share > 0.95 if conditioned else upright_share < 0.6
