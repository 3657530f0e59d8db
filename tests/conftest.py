"""What tests of several floors need: a project folder with a store of its own, a server, a tiny untrained model."""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import started
from mlflow_server import Server, running
from waiting import HANG_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Tests run side by side and start processes of their own; torch's threads would wait for each other by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = (
    *("test_deployment", "test_server_as_store", "test_stops", "test_relay", "test_register_stage", "test_imports"),
    *("test_fidelity", "test_dvc_stage", "test_without_server", "test_measuring", "test_train_stage", "test_examine"),
    *("test_registry_commands", "test_registry_cut_off", "test_checkout", "test_sharding"),
)
"""The files that take longest. They start first: one that starts last keeps one core busy while the other waits."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


TINY_SPEC: dict[str, Any] = {
    "channels": 1,
    "size": 8,
    "classes": [f"class {k}" for k in range(4)],
    "unconditional": True,
    "schedule": {
        "name": "cosine",
        "T": 50,
        "time": "discrete",
        "shift": 1.0,
        "zero_terminal_snr": False,
        "sigma_min": 0.002,
        "sigma_max": 80.0,
    },
    "objective": {
        "target": "v",
        "weight": "simple",
        "min_snr_gamma": 5.0,
        "p2_gamma": 1.0,
        "sigma_data": 0.5,
        "learned_variance": False,
        "vlb_weight": 0.001,
        "bounded": False,
    },
    "network": {
        "patch": 1,
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [4],
        "head_channels": 8,
        "dropout": 0.0,
        "embedding": "scale_shift",
        "resample": "residual",
        "groups": None,
    },
    "convention": {
        "norm_eps": 1e-5,
        "frequency_shift": 0,
        "strided_padding": "both",
        "middle_attention": "normalised",
    },
}


TINY_RECIPE = {"sampler": "dpmpp_2m", "steps": 10, "time_grid": "karras"}


def tiny_spec(**changes: Any) -> Any:
    """The spec of TINY_SPEC with these changes of it, those of a section by key."""
    from pydantic import TypeAdapter

    from ddpm.model_spec import Spec

    sections = {
        key: TINY_SPEC.get(key, {}) | value if isinstance(value, dict) else value for key, value in changes.items()
    }
    return TypeAdapter(Spec).validate_json(json.dumps(TINY_SPEC | sections), strict=True)


def save_tiny_model(
    path: Path, *, seed: int = 0, recipe: dict[str, Any] | None = TINY_RECIPE, guide: Any = None, **changes: Any
) -> str:
    """An untrained model file of 4 classes, 8x8, T=50 (or with these changes of its spec), which carries the recipe of
    `small_recipe.recipe` with these changes, or none; returns its sha256."""
    import torch
    from small_recipe import recipe as recipe_with

    from ddpm import model_file
    from ddpm.model_spec import build_network
    from ddpm.settings import as_dict

    spec = tiny_spec(**changes)
    torch.manual_seed(seed)
    network = build_network(spec)
    for parameter in network.parameters():  # an untrained network ends in zeros, and says the same for every label
        torch.nn.init.normal_(parameter, std=0.1)
    return model_file.save(
        path,
        network=network,
        spec=spec,
        lineage={"data_hash": "d" * 64, "seed": seed, "params": {"train": {"images": 1000}}},
        recipe=None if recipe is None else as_dict(recipe_with(**recipe)),
        guide=guide,
    )


@pytest.fixture(scope="session")
def spec_with() -> Callable[..., Any]:
    """`tiny_spec`, which tests cannot import where folders have a conftest of their own."""
    return tiny_spec


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., str]:
    """`save_tiny_model`."""
    return save_tiny_model


def save_split(
    folder: Path, images: Any, labels: Any = None, *, shard_bytes: int = 1 << 30, store: str | None = None
) -> None:
    """One split of prepared data: its shards, here or in the store, their index, and the labels."""
    import numpy as np

    from ddpm.data.reading.shard_index import Index, images_per_shard, write_index, write_shard

    folder.mkdir(parents=True, exist_ok=True)
    shape = images.shape[1:]
    per_shard = images_per_shard(shape, shard_bytes)
    parts = [images[start : start + per_shard] for start in range(0, len(images), per_shard)]
    shards = [write_shard(folder, k, [part], n=len(part), shape=shape, store=store) for k, part in enumerate(parts)]
    write_index(folder, Index(store, tuple(shards)))
    if labels is not None:
        np.save(folder / "labels.npy", labels)


@pytest.fixture(scope="session")
def write_split() -> Callable[..., None]:
    """`save_split`."""
    return save_split


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database before anything is in it; making one takes seconds, so pytest's workers share it."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "empty.db"
    with open(shared.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            from ddpm.tracking import store

            folder = tmp_path_factory.mktemp("store")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("DVC_ROOT", str(folder))
                patch.delenv("MLFLOW_TRACKING_URI", raising=False)
                store.connect(make=True)
            shutil.copy(folder / "mlflow.db", own / "empty.db.part")
            os.replace(own / "empty.db.part", shared)
    return shared


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is a project, in a path with a space, whose store is its own and empty."""
    folder = tmp_path / "a project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.setattr("ddpm.tracking.store.ANSWER_SECONDS", HANG_SECONDS)
    return folder


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a bucket on an S3 server of its own, whose address and credentials the environment has."""
    import fsspec
    from moto.server import ThreadedMotoServer

    bucket = f"images-{uuid.uuid4()}"  # all servers of a process share their buckets
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # which remember another server
        fsspec.filesystem("s3").mkdir(bucket)
        yield f"s3://{bucket}"
        fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")  # its event loop would be in the way of other modules' own
def browser() -> "Iterator[Browser]":
    """A real browser, or the test is skipped (`tests/browser.py`)."""
    with started() as one:
        yield one
