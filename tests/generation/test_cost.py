"""What sampling does not pay for: steps that nobody reads, waits for the device, and casts of the same weights."""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_recipe import recipe
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ddpm import model_file
from ddpm.compute.hardware import autocast
from ddpm.degrading import operators
from ddpm.diffusion.bound import Estimate
from ddpm.diffusion.processes import LinearPath, Process, VarianceExploding
from ddpm.diffusion.schedules import make_continuous_schedule, make_schedule
from ddpm.generation.batch import PerImageNoise
from ddpm.networks.cast_weights import with_cast_weights
from ddpm.sampling import editing, grids, restoration
from ddpm.sampling.catalogue import SAMPLERS
from ddpm.sampling.drawing import drawn, surrounded
from ddpm.sampling.samplers import Step, last_of
from ddpm.seeding import seed_of

PROCESSES: dict[str, Process] = {
    "chain": make_schedule("cosine", 50),
    "continuous": make_continuous_schedule("linear", 1.0),
    "exploding": VarianceExploding(0.002, 80.0),
    "path": LinearPath(1.0),
}


def test_of_a_reverse_process_only_the_last_step_stays_in_memory() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def steps() -> Iterator[Step]:
        nonlocal most
        for t in range(50, -1, -1):
            images = torch.full((2,), float(t))
            alive.append(weakref.ref(images))
            yield Step(t, images, images)
            del images
            most = max(most, sum(each() is not None for each in alive))

    assert last_of(steps()).t == 0
    assert most <= 2


def elsewhere(x: Tensor, t: Tensor, condition: object) -> Estimate:
    return Estimate(x * 0.5, 0.5)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_sampler_reads_a_number_from_the_device(sampler: str, process: Process) -> None:
    """The images are on torch's `meta` device, from which nothing can be read."""
    settings = recipe(sampler=sampler, steps=6, time_grid="log_snr", guidance=2.0, guidance_interval=(0.1, 3.0))
    settings = replace(settings, heun=replace(settings.heun, churn=40.0), ddim=replace(settings.ddim, eta=0.5))
    denoise = surrounded(settings, elsewhere, process, None)
    noise = lambda: torch.empty(2, 1, 4, 4, device="meta")  # noqa: E731
    step = last_of(drawn(settings, lambda x, t: denoise(x, t, True), process, noise))
    assert (step.t, step.x_t.device.type) == (0, "meta")


def test_no_task_on_pictures_reads_a_number_from_the_device() -> None:
    x = torch.empty(2, 3, 8, 8, device="meta")
    blur = operators.gaussian_blur(8, width=1.0, smallest=0.01)
    for process in PROCESSES.values():
        grid, noise = grids.optimized(process, 6), lambda: torch.empty_like(x)
        path = restoration.resampling_path(grid, jump=2, resamplings=2)
        denoise = restoration.consistent(lambda x, t: elsewhere(x, t, None), blur, blur.measure(x))
        last_of(restoration.repaint(denoise, process, x, path, noise, known=x, mask=x > 0))
        restoration.start_of_noisy(process, x, grid, std=0.3)
        editing.start_of_edit(process, x, grid, strength=0.5, noise=noise)
        editing.ddim_inversion(denoise, process, x, grid, iterations=2)


def test_noise_is_that_of_one_draw_for_each_image() -> None:
    for shape in ((1, 2, 2), (3, 5, 5), (1, 28, 28)):
        noise, streams = PerImageNoise(4, [0, 7], shape, torch.device("cpu")), []
        streams = [torch.Generator().manual_seed(seed_of("image", 4, k)) for k in (0, 7)]
        for _ in range(2):
            assert torch.equal(noise(), torch.stack([torch.randn(shape, generator=each) for each in streams]))


class _Casts(TorchFunctionMode):
    """Counts what is called with a float32 weight of a layer that autocast computes in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function in (torch.conv2d, torch.nn.functional.conv2d, torch.nn.functional.linear):
            self.weights += args[1].dtype == torch.float32
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("resample", ["residual", "conv"])
def test_weights_that_were_cast_before_give_the_bits_of_autocast(
    tmp_path: Path, tiny_model: Callable[..., str], resample: str
) -> None:
    tiny_model(tmp_path / "m.safetensors")
    model = model_file.load(tmp_path / "m.safetensors")
    network = model_file.build_network(
        replace(model.spec, size=32, network=replace(model.spec.network, resample=resample, multipliers=(1, 2)))
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    copy, x, t = with_cast_weights(network, torch.bfloat16), torch.randn(3, 1, 32, 32), torch.tensor([1.0, 20, 900])
    counts = []
    with torch.inference_mode(), autocast(x.device, "bf16"):
        answers = []
        for each in (network, copy):
            with _Casts() as casts:
                answers.append(each(x, t, torch.tensor([0, 1, 2])))
            counts.append(casts.weights)
    assert torch.equal(*answers)
    assert counts[1] <= 4 < counts[0]  # the four kernels of an upsampling on a CPU are sums of float32 weights


def test_an_estimator_in_bf16_casts_once_and_again_after_the_weights_changed(
    tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    tiny_model(tmp_path / "m.safetensors")
    model = model_file.load(tmp_path / "m.safetensors")
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([3, 40]), torch.tensor([0, 1])
    with torch.inference_mode():
        before = model.estimator(precision="bf16")(x, t, labels).x_0
        first = model._laid_out("bf16")
        assert model._laid_out("bf16") is first
    with torch.no_grad():
        model.network.get_parameter("conv_out.bias").add_(1)
    with torch.inference_mode():
        assert not torch.equal(model.estimator(precision="bf16")(x, t, labels).x_0, before)


def test_a_model_is_loaded_to_the_gpu_of_its_process(
    tmp_path: Path, tiny_model: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU the file is not opened there, but the name of the device shows where it would be."""
    tiny_model(tmp_path / "m.safetensors")
    seen: list[str] = []

    def opened(*_: object, device: str, **__: object) -> object:
        seen.append(device)
        raise InterruptedError

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(model_file, "safe_open", opened)
    for device in ("cuda", "cuda:1", "cpu"):
        with pytest.raises(InterruptedError):
            model_file.load(tmp_path / "m.safetensors", device)
    assert seen == ["cuda:3", "cuda:1", "cpu"]
