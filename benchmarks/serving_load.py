"""`ddpm serve` under load: clients ask as fast as they are answered, while the champion changes twice.

A model is registered twice in a store of its own, with two recipes. The server follows the champion; after a third of
the time the second version is promoted, and after two thirds rolled back. Every call is counted by its outcome.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from common import command, machine, ratio, table, take_turns, write

from ddpm import model_file
from ddpm.errors import UserError
from ddpm.generation.recipe import Recipe, recipe_in, recipe_of
from ddpm.model_file import Model
from ddpm.settings import as_dict

ROOT = Path(__file__).parents[1]
STARTS_WITHIN = 300.0
"""Seconds."""
SEEDS = 20
"""Every client asks for these seeds in turn, so that equal requests can be compared."""


@dataclass
class Load:
    """What all clients saw."""

    seconds: list[float] = field(default_factory=list)
    """Of every answer with images."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Calls by status, or by the error without an answer."""
    versions: list[str] = field(default_factory=list)
    """The version of every answer, in the order of their arrival."""
    images: dict[tuple[str, int], str] = field(default_factory=dict)
    """The first answer to each seed, by version."""
    other: int = 0
    """Answers whose images are not those of an earlier one with the same seed and version."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("models/model.safetensors"))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8], help="images of one call, one run each")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of drawing alone and together")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if not args.model.exists():
        raise UserError(f"{args.model} was not found; train a model with `dvc repro train`, or name one with --model")
    model = with_recipe(args.model)
    rows = []
    for images in args.images:
        load = loaded(model, clients=args.clients, seconds=args.seconds, images=images)
        rows.append(row(load, images=images, seconds=args.seconds))
        print(rows[-1], flush=True)
    gains = [gain(model, n, calls=args.clients, rounds=args.rounds) for n in args.images]
    write(args.output, page(rows, gains, args.clients, args.seconds))


def with_recipe(path: Path) -> Model:
    """The model; one without a recipe gets that of params.yaml."""
    model = model_file.load(path)
    if recipe_of(model) is None:
        from ddpm.params import load as load_params

        params = load_params()
        model = replace(model, recipe=as_dict(recipe_in(params.sample, params.runtime.precision, model.spec.method)))
    return model


def row(load: Load, *, images: int, seconds: float) -> dict[str, str]:
    """One line of the table."""
    times = sorted(load.seconds)
    outcomes = ", ".join(f"{count:,} x {name}" for name, count in sorted(load.outcomes.items()))
    return {
        "images of a call": str(images),
        "answers/s": f"{len(times) / seconds:.1f}",
        "images/s": f"{len(times) * images / seconds:.1f}",
        "p50, s": f"{statistics.median(times):.3f}",
        "p99, s": f"{times[min(len(times) - 1, int(0.99 * len(times)))]:.3f}",
        "slowest, s": f"{times[-1]:.3f}",
        "calls by outcome": outcomes,
        "answers by version": ", ".join(f"{n:,} by {name}" for name, n in sorted(Counter(load.versions).items())),
        "equal seeds, other images": str(load.other),
    }


def page(rows: list[dict[str, str]], gains: list[dict[str, str]], clients: int, seconds: float) -> str:
    return (
        "# The served champion under load\n\n"
        f"`ddpm serve`; {clients} clients on the same machine ask again as soon as "
        f"they are answered, for {seconds:g} seconds. After a third of that time another version becomes champion, and "
        "after two thirds it is rolled back. Every outcome that is no status of HTTP is a call without an answer.\n\n"
        f"{table(rows)}\n\n"
        f"{clients} requests of equal settings and other seeds, drawn in one batch, one after the other, or each in a "
        "thread of its own: the processor time of these, divided by that of the batch in the same round, "
        "which says what is gained where all cores have work.\n\n"
        f"{table(gains)}\n\n{machine()}.\n\n`{command()}`\n"
    )


def gain(model: Model, images: int, *, calls: int, rounds: int) -> dict[str, str]:
    """Compare the processor time of so many requests, drawn together, in turn, and in threads beside each other."""
    import torch

    from ddpm.serving import sample_request
    from ddpm.serving.batching import draw_together
    from ddpm.serving.sample_request import SampleRequest

    requests = [sample_request.complete({"number": images, "seed": seed}, model) for seed in range(calls)]

    def draw(*chosen: SampleRequest) -> None:
        for request in chosen:
            sample_request.draw(model, request)

    def timed(work: Callable[..., object], shares: Sequence[Sequence[SampleRequest]]) -> Callable[[], float]:
        """Each share in a thread of its own, as in the server."""

        def on_one_core(*share: SampleRequest) -> None:
            torch.set_num_threads(1)  # of the calling thread: waiting for other cores would count as work
            work(*share)

        def seconds() -> float:
            began = time.process_time()
            drawing = [threading.Thread(target=on_one_core, args=share) for share in shares]
            for thread in drawing:
                thread.start()
            for thread in drawing:
                thread.join()
            return time.process_time() - began

        return seconds

    ways = {
        "together": timed(lambda *chosen: draw_together(model, chosen), [requests]),
        "in turn": timed(draw, [requests]),
        "beside each other": timed(draw, [[request] for request in requests]),
    }
    for way in ways.values():
        way()
    times = take_turns(ways, rounds=rounds)
    return {
        "images of a request": str(images),
        "in turn / together": ratio(times["in turn"], times["together"]),
        "beside each other / together": ratio(times["beside each other"], times["together"]),
    }


def loaded(model: Model, *, clients: int, seconds: float, images: int) -> Load:
    """Serve the model and ask for images; return what the clients saw."""
    from ddpm.promotion import commands
    from ddpm.tracking.mlflow_registry import MlflowRegistry

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), own_store():
        shutil.copy(ROOT / "params.yaml", folder)
        register_twice(model, Path(folder))
        registry = MlflowRegistry("ddpm")
        commands.promote(registry, "1", reason="first")
        moves = [
            lambda: commands.promote(registry, "2", reason="better"),
            lambda: commands.rollback(registry, reason="worse"),
        ]
        with served(Path(folder)) as port:
            return asked(port, clients=clients, seconds=seconds, images=images, moves=moves)


def asked(port: int, *, clients: int, seconds: float, images: int, moves: Sequence[Callable[[], object]]) -> Load:
    """Ask the server at this port from all clients, and make the moves at equal times; return what the clients saw."""
    load, began = Load(), time.monotonic()
    asking = [
        threading.Thread(target=ask, args=(load, port, images, began + seconds, client)) for client in range(clients)
    ]
    for thread in asking:
        thread.start()
    for k, move in enumerate(moves, start=1):
        time.sleep(max(0.0, began + seconds * k / (len(moves) + 1) - time.monotonic()))
        move()
    for thread in asking:
        thread.join()
    return load


def ask(load: Load, port: int, images: int, end: float, client: int) -> None:
    """Ask over one connection until the time is over, and add what was seen; connect anew after an error."""
    connection, seed = HTTPConnection("127.0.0.1", port, timeout=120), client
    while (began := time.monotonic()) < end:
        seed = (seed + 1) % SEEDS
        try:
            body = json.dumps({"inputs": [{"number": images, "seed": seed}]})
            connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, HTTPException) as error:
            load.outcomes[type(error).__name__] += 1
            connection.close()
            continue
        load.outcomes[str(answer.status)] += 1
        if answer.status == 200:
            load.seconds.append(time.monotonic() - began)
            [given] = json.loads(content)["predictions"]
            version, shown = given["model"]["version"], "".join(given["images"])
            load.versions.append(version)
            load.other += load.images.setdefault((version, seed), shown) != shown
        else:
            time.sleep(0.05)  # as told: try again later
    connection.close()


@contextlib.contextmanager
def own_store() -> Iterator[None]:
    """Use the store of the working folder in the block."""
    told = {name: os.environ.pop(name, None) for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in told.items() if value is not None})


def register_twice(model: Model, folder: Path) -> None:
    """Register the model with its own recipe, and with one step more, so that the files differ."""
    from served import registered

    recipe = recipe_of(model)
    assert isinstance(recipe, Recipe)
    for more in (0, 1):
        file = folder / f"{more}" / "model.safetensors"
        own = as_dict(replace(recipe, steps=recipe.steps + more))
        model_file.save(file, network=model.network, spec=model.spec, lineage=model.lineage, recipe=own)
        registered(file, folder)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve the champion within the block; yield the port when the server is ready."""
    log = folder / "log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [Path(sys.executable).parent / "ddpm", "serve", "--port", "0"],
            stdout=said,
            stderr=said,
        )
    try:
        began = time.monotonic()
        while (port := ready_port(log)) is None:
            if process.poll() is not None or time.monotonic() - began > STARTS_WITHIN:
                raise UserError(f"`ddpm serve` did not start; it said: {' '.join(log.read_text().split())[-400:]}")
            time.sleep(0.1)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def ready_port(log: Path) -> int | None:
    found = re.search(r"answers on http://127\.0\.0\.1:(\d+)/", log.read_text())
    if found is None:
        return None
    connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
    try:
        connection.request("GET", "/ready")
        return int(found[1]) if connection.getresponse().status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


if __name__ == "__main__":
    main()
