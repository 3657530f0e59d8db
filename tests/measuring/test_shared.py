"""Two processes that share sampling and the extractor's training have the same results as one process."""

from collections.abc import Callable

import forked
import pytest
import shared
import torch
from safetensors.torch import load_file
from torch import Tensor


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]) -> list[dict[str, Tensor]]:
    """The results of one process, and of two."""
    folder = tmp_path_factory.mktemp("shared")
    model, file = folder / "model.safetensors", folder / "two.safetensors"
    tiny_model(model)
    forked.run_together(2, shared.made_together, str(model), str(file), folder=folder)
    alone = shared.made(str(model))
    assert alone is not None
    return [alone, load_file(file)]


def test_two_processes_sample_bitwise_the_images_of_one(results: list[dict[str, Tensor]]) -> None:
    one, two = results
    assert one["images"].shape == (13, 1, 8, 8)
    assert torch.equal(one["images"], two["images"])
    assert len(one["images"].unique(dim=0)) == 13


def test_two_processes_train_and_standardise_the_extractor_of_one(results: list[dict[str, Tensor]]) -> None:
    one, two = results
    for name in one.keys() - {"images"}:
        # Sums in another order are rounded differently, and Adam's first steps divide by small gradients.
        assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-3 * float(one[name].abs().max())), name
