"""The compiled group normalisation: the values of the composed one up to rounding, for any number of threads."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddpm.networks import kernels, native_norm

compiled = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler is installed")


@pytest.fixture
def turned_on() -> Iterator[None]:
    assert native_norm.turn_on() is None
    yield
    native_norm.turn_off()


def results(x: Tensor, *, groups: int, silu: bool) -> list[Tensor]:
    """The output and the gradients of x, scale and shift."""
    n, c = x.shape[:2]
    drawn = torch.Generator().manual_seed(1)
    scale, shift = (torch.randn(n, c, generator=drawn, requires_grad=True) for _ in range(2))
    gradient = torch.randn(x.shape, generator=drawn).to(x.dtype)
    x = x.detach().clone().requires_grad_()
    if x.dtype == torch.bfloat16:
        y = kernels.group_norm(x, scale, shift, groups=groups, eps=1e-5, silu=silu)
    else:
        y = F.group_norm(x, groups, eps=1e-5) * scale[:, :, None, None] + shift[:, :, None, None]
        y = F.silu(y) if silu else y
    y.backward(gradient.to(torch.bfloat16).to(x.dtype))
    return [y.detach(), *(tensor.grad for tensor in (x, scale, shift) if tensor.grad is not None)]


def drawn(n: int, c: int, size: int, layout: torch.memory_format) -> Tensor:
    x = 0.5 + torch.randn(n, c, size, size, generator=torch.Generator().manual_seed(0))
    return x.to(torch.bfloat16).to(memory_format=layout)


@compiled
@pytest.mark.usefixtures("turned_on")
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("n", "c", "size", "groups"), [(5, 64, 16, 16), (2, 48, 7, 4), (1, 20, 3, 5), (3, 8, 1, 2)])
def test_values_and_gradients_are_as_near_to_float32_as_the_composed_ones(
    n: int, c: int, size: int, groups: int, layout: torch.memory_format, silu: bool
) -> None:
    x = drawn(n, c, size, layout)
    native = results(x, groups=groups, silu=silu)
    native_norm.turn_off()
    composed, exact = results(x, groups=groups, silu=silu), results(x.float(), groups=groups, silu=silu)
    for ours, before, true in zip(native, composed, exact, strict=True):
        assert ours.dtype == before.dtype
        assert ours.shape == before.shape
        scale = true.norm() + 1e-3 * true.numel() ** 0.5
        assert (ours.float() - true).norm() < 1.01 * (before.float() - true).norm() + 1e-5 * scale + 2**-9 * scale


@compiled
@pytest.mark.usefixtures("turned_on")
def test_float32_is_composed_because_the_compiled_operations_would_read_its_bytes_as_bf16() -> None:
    x, scale, shift = drawn(2, 8, 4, torch.channels_last).float(), torch.ones(2, 8), torch.zeros(2, 8)
    found = kernels.group_norm(x, scale, shift, groups=2, eps=1e-5, silu=False)
    torch.testing.assert_close(found, F.group_norm(x, 2, eps=1e-5))


@compiled
@pytest.mark.usefixtures("turned_on")
def test_no_bit_depends_on_the_number_of_threads_or_on_the_other_images() -> None:
    x, before = drawn(6, 64, 8, torch.channels_last), torch.get_num_threads()
    runs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        runs.append(results(x, groups=16, silu=True))
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))
    scale, shift = torch.ones(6, 64), torch.zeros(6, 64)
    together = kernels.group_norm(x, scale, shift, groups=16, eps=1e-5, silu=True)
    alone = kernels.group_norm(x[2:3], scale[:1], shift[:1], groups=16, eps=1e-5, silu=True)
    assert torch.equal(together[2:3], alone)


@compiled
@pytest.mark.usefixtures("turned_on")
def test_what_is_not_finite_stays_not_finite_in_its_image_only() -> None:
    x = drawn(2, 16, 4, torch.channels_last)
    x[0, 3, 1, 1] = float("nan")
    values = results(x, groups=4, silu=True)
    assert values[0][0, :4].isnan().all()
    assert not values[1][0].isfinite().all()
    assert all(value[1].isfinite().all() for value in values)


def test_without_a_compiler_it_stays_off_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in (native_norm.turn_on() or "")
    assert not native_norm.is_on()


@compiled
@pytest.mark.usefixtures("turned_on")
@pytest.mark.parametrize("mean", [100.0, -300.0])
def test_a_mean_far_above_the_deviation_costs_no_digits(mean: float) -> None:
    x = (mean + drawn(1, 16, 64, torch.channels_last).float()).to(torch.bfloat16)
    native, exact = results(x, groups=4, silu=False), results(x.double(), groups=4, silu=False)
    for ours, true in zip(native, exact, strict=True):
        assert (ours.double() - true).norm() < 0.01 * true.norm()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (b"printf 'caf\\351\\n' >&2; exit 1", "caf"),  # not UTF-8
        (b"exit 0", "cannot open shared object file"),
        (b"exec sleep 60", "had not compiled it after 0.2 s"),
        (b"for made; do :; done; echo 'int x;' | c++ -x c++ -shared -fPIC - -o \"$made\"", "forward"),
    ],
)
def test_a_compiler_that_fails_in_any_way_is_one_sentence(
    script: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "a compiler"
    compiler.write_bytes(b"#!/bin/sh\n" + script + b"\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    if b"sleep" in script:
        monkeypatch.setattr(native_norm, "_SECONDS", 0.2)
    said = native_norm.turn_on() or ""
    native_norm.turn_off()
    assert reason in said
    assert "\n" not in said


def test_without_a_folder_for_temporary_files_it_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    assert "No space left" in (native_norm.turn_on() or "")


@pytest.mark.parametrize(
    ("wanted", "precision", "said"), [(False, "float32", None), (True, "float32", "in float32 on cpu")]
)
def test_who_wants_it_where_it_is_not_used_is_told(wanted: bool, precision: str, said: str | None) -> None:
    sentence = native_norm.turn_on_where_it_serves(wanted, torch.device("cpu"), precision)
    assert not native_norm.is_on()
    assert (sentence is None) if said is None else said in (sentence or "")
