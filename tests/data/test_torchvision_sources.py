"""torchvision's real loaders on small real files: a set split by `train=`, one split by `split=`, one not split."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm.data.preparing.prepare import prepare
from ddpm.data.preparing.prepared_shape import ChooseSize, keep_own_size
from ddpm.data.reading.dataset import Facts, read_split
from ddpm.errors import UserError
from ddpm.params import load as load_params

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)


def run(
    root: Path,
    name: str,
    prepared: Path,
    *,
    workers: int = 1,
    download: bool = False,
    labels: bool = True,
    choose_size: ChooseSize = keep_own_size,
) -> Facts:
    data = dataclasses.replace(
        load_params(ROOT / "params.yaml").data, source=f"torchvision:{name}", download=download, labels=labels
    )
    return prepare(data, raw=root, prepared=prepared, workers=workers, progress=False, choose_size=choose_size)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write the format of MNIST's files (LeCun et al., http://yann.lecun.com/exdb/mnist)."""
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    path.write_bytes(header + values.tobytes())


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("torchvision")
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n in (("train", 600), ("t10k", 50)):
        write_idx(raw / f"{name}-images-idx3-ubyte", RNG.integers(0, 256, (n, 28, 28), np.uint8))
        write_idx(raw / f"{name}-labels-idx1-ubyte", (np.arange(n) % 10).astype(np.uint8))
    return root


def test_mnist_keeps_its_pixels_labels_and_split(mnist: Path, tmp_path: Path) -> None:
    facts = run(mnist, "MNIST", tmp_path / "prepared")
    assert (facts.name, facts.size, facts.channels, facts.train, facts.test) == ("MNIST", 28, 1, 600, 50)
    assert (facts.found, len(facts.classes)) == (650, 10)
    test = read_split(tmp_path / "prepared", "test")
    stored = (mnist / "MNIST" / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    assert test.images.tobytes() == stored
    assert test.labels is not None
    assert test.labels.tolist() == [k % 10 for k in range(50)]


def test_threads_give_the_same_as_one(mnist: Path, tmp_path: Path) -> None:
    hashes = {run(mnist, "MNIST", tmp_path / "prepared", workers=workers).content_hash for workers in (1, 3)}
    assert len(hashes) == 1


def test_a_set_of_files_split_by_name_is_read(tmp_path: Path) -> None:
    for split, n in (("train", 6), ("valid", 2), ("test", 4)):
        for k in range(n):
            path = tmp_path / "country211" / split / f"{'AB'[k % 2]}" / f"{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    facts = run(tmp_path, "Country211", tmp_path / "prepared")
    assert (facts.train, facts.test, facts.size, facts.channels, facts.classes) == (6, 4, 20, 3, ("A", "B"))
    assert run(tmp_path, "Country211", tmp_path / "prepared", labels=False).classes == ()
    facts = run(tmp_path, "Country211", tmp_path / "prepared", choose_size=lambda size, channels: size // 2 + channels)
    assert (facts.size, facts.own_size) == (13, 20)


def test_a_set_without_a_split_is_split_by_fraction(tmp_path: Path) -> None:
    for k in range(20):
        path = tmp_path / "eurosat" / "2750" / f"{'AB'[k % 2]}" / f"{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    facts = run(tmp_path, "EuroSAT", tmp_path / "prepared")
    assert (facts.train, facts.test, facts.classes) == (16, 4, ("A", "B"))


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "SVHN", "STL10", "Flowers102"])
def test_missing_files_are_reported_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"could not read {name} in .*set data.download to true") as error:
        run(tmp_path, name, tmp_path / "prepared")
    assert "\n" not in str(error.value)


def test_every_loader_accepts_its_arguments() -> None:
    import inspect

    from torchvision import datasets

    from ddpm.data.preparing.sources import _TORCHVISION

    for name, parts in _TORCHVISION.items():
        for part in parts:
            inspect.signature(vars(datasets)[name]).bind("root", download=False, **part)


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"torchvision:MINST, expected torchvision: with one of MNIST, Fashion"):
        run(tmp_path, "MINST", tmp_path / "prepared")


def test_other_sources_do_not_import_torch(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from ddpm.params import load as load_params
from ddpm.data.preparing.prepare import prepare
import ddpm.stages.prepare
prepare(load_params(sys.argv[1]).data, raw=Path("x"), prepared=Path(sys.argv[2]), workers=1, progress=False)
sys.exit("torch" in sys.modules or "great_expectations" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", program, ROOT / "params.yaml", tmp_path / "out"], check=True)
