"""Several processes measure what one measures, and the memory does not grow with the number of training images."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import divided_measuring
import forked
import numpy as np
import pytest
import torch

from ddpm.errors import UserError
from ddpm.measuring import fidelity
from ddpm.measuring.features.subset import draw_rows

SIX_PIECES = 650
RANDOM = np.random.default_rng(0)


def noise(n: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize("number", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_processes_measure_bitwise_what_one_measures(
    number: int, tmp_path: Path, write_split: Callable[..., None]
) -> None:
    """Generated images are copies of images that several processes have. Of seven processes, one has no piece."""
    train, held_out, generated = noise(SIX_PIECES), noise(200), noise(120)
    train[600:650] = train[:50]
    generated[:60] = train[590:650]
    generated[60:90] = np.roll(train[300:330], 1, axis=2)
    write_split(tmp_path, train, shard_bytes=128 + 100 * 64)
    np.savez(tmp_path / "images.npz", generated=generated, held_out=held_out)
    one, all_of_them = tmp_path / "one.json", tmp_path / "all.json"
    forked.run_together(1, divided_measuring.found_together, str(tmp_path), str(one), folder=tmp_path)
    (tmp_path / "store").unlink(missing_ok=True)
    forked.run_together(number, divided_measuring.found_together, str(tmp_path), str(all_of_them), folder=tmp_path)
    assert one.read_bytes() == all_of_them.read_bytes()
    alone, shared = (np.load(path.with_suffix(".npz")) for path in (one, all_of_them))
    for name in alone:
        assert np.array_equal(alone[name], shared[name]), name
    first_of_equal = [*range(590, 600), *range(50)]
    assert alone["pixels index"][:60].tolist() == first_of_equal
    assert (alone["shifted distance"][:90] == 0).all()


@pytest.mark.slow
def test_memory_stays_flat_while_the_training_images_grow_tenfold(
    tmp_path: Path, write_split: Callable[..., None]
) -> None:
    """Features of 90,000 more images would be 44 MiB, and their mapped pixels are 5 MiB; 20 MiB more are allowed."""
    program = """
import resource, sys
from pathlib import Path
import numpy as np
import divided_measuring
random = np.random.default_rng(1)
generated, held_out = (random.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8) for n in (140, 300))
divided_measuring.compare(Path(sys.argv[1]), generated, held_out, dim=128, most=140)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peaks = []
    for n in (10_000, 100_000):
        folder = tmp_path / str(n)
        write_split(folder, noise(n), shard_bytes=128 + 5_000 * 64)
        command = [sys.executable, "-c", program, str(folder)]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 20, f"peak memory {peaks} MiB"


def test_of_more_held_out_images_a_seeded_subset_is_used_which_the_protocol_states(
    tmp_path: Path, write_split: Callable[..., None]
) -> None:
    train, held_out, generated = noise(300), noise(200), noise(100)
    write_split(tmp_path, train)

    def reference(most: int) -> tuple[int, str]:
        compared = divided_measuring.compare(tmp_path, generated, held_out, dim=4, most=most)
        return len(compared.reference), compared.reference_hash

    whole, part = reference(200), reference(150)
    assert (whole[0], part[0]) == (200, 150)
    assert whole == reference(10_000) == (200, fidelity.hash_of(held_out))
    assert part == reference(150)
    rows = np.sort(draw_rows(150, 200, seed=fidelity.seed_of("held-out", 5)))
    assert part[1] == fidelity.hash_of(held_out[rows])


@pytest.mark.parametrize("of", [500, 2**20, 10**9])
def test_rows_are_drawn_once_each_from_a_set_of_any_size(of: int) -> None:
    rows = draw_rows(400, of, seed=1)
    assert len(set(rows.tolist())) == 400
    assert 0 <= rows.min() < 0.02 * of
    assert 0.98 * of < rows.max() < of
    assert np.array_equal(rows, draw_rows(400, of, seed=1))
    assert not np.array_equal(rows, draw_rows(400, of, seed=2))


def test_rows_of_a_small_set_are_those_of_a_permutation() -> None:
    expected = torch.randperm(500, generator=torch.Generator().manual_seed(3))[:20]
    assert draw_rows(20, 500, seed=3).tolist() == expected.tolist()


def test_a_subset_that_is_too_small_for_the_metrics_is_refused_by_name() -> None:
    params = divided_measuring.PARAMS
    with pytest.raises(ValueError, match="held_out_images is 99, but kid_subset_size needs at least 100"):
        dataclasses.replace(params.evaluate, held_out_images=99)
    with pytest.raises((UserError, ValueError), match=r"held_out_images is 100, but FID with features\.dim \(128\)"):
        dataclasses.replace(
            params,
            features=dataclasses.replace(params.features, dim=128),
            evaluate=dataclasses.replace(params.evaluate, held_out_images=100),
        )
