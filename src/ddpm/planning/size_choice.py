"""The size of the images where data.size is null: their own, or the largest that this machine trains in time.

A size above UNMEASURED is chosen by a measurement in a process of its own (trainable_size.py), so that a preparation
needs no torch. The choice is recorded and kept until something changes on which it depends, because the next
measurement would differ by noise.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ddpm.compute.settings import Runtime
from ddpm.diffusion.settings import Objective, Schedule
from ddpm.errors import UserError
from ddpm.files import write_json
from ddpm.networks.settings import Condition, Gan, Method, Network, Text, Vae
from ddpm.settings import as_dict, section
from ddpm.training.settings import Train

UNMEASURED = 32
"""Images of at most this size keep it, without a measurement."""
_TRAIN = ("images", "batch_size", "optimizer", "augment", "minutes", "max_hours")
"""The settings of `train` that decide how long a training takes, and how long it may take."""


@section
class Settings:
    """What is trained, and how."""

    method: Method
    schedule: Schedule
    objective: Objective
    network: Network
    vae: Vae
    gan: Gan
    condition: Condition
    text: Text
    train: Train
    runtime: Runtime


@section
class Question:
    """At which size can images of this size be used for training?"""

    own_size: int
    """Pixels of height and width that the images have by themselves."""
    channels: int
    settings: Settings


class Causes(Protocol):
    """The sections of params.yaml on which the size depends, besides the images and the machine."""

    @property
    def method(self) -> Method: ...
    @property
    def network(self) -> Network: ...
    @property
    def vae(self) -> Vae: ...
    @property
    def gan(self) -> Gan: ...
    @property
    def condition(self) -> Condition: ...
    @property
    def text(self) -> Text: ...
    @property
    def train(self) -> Train: ...


def causes(sections: Causes) -> dict[str, Any]:
    """Return the settings on which the size depends, besides the images and the machine."""
    training = as_dict(sections.train)
    network = {"diffusion": sections.network, "vae": sections.vae, "gan": sections.gan}[sections.method]
    text = {"text": as_dict(sections.text)} if sections.condition == "text" else {}
    return {"method": sections.method, "network": as_dict(network), **text} | {
        "train": {name: training[name] for name in _TRAIN}
    }


def size_chooser(settings: Settings, *, record: Path) -> Callable[[int, int], int]:
    """Return the function that maps the images' own size and their channels to the size that they get.

    It prints what it chose and why, and keeps the choice in the file `record`. It raises UserError if a training step
    cannot be measured.
    """
    chosen: dict[tuple[int, int], int] = {}

    def choose(own: int, channels: int) -> int:
        if own <= UNMEASURED:
            return own
        if (own, channels) not in chosen:
            question = Question(own_size=own, channels=channels, settings=settings)
            size, reason = _recorded(record, question) or _measured(record, question)
            print(reason, flush=True)
            chosen[own, channels] = size
        return chosen[own, channels]

    return choose


def _recorded(record: Path, question: Question) -> tuple[int, str] | None:
    """Return an earlier choice for the same images and settings; None if there is none or the file is damaged."""
    try:
        read = json.loads(record.read_text(encoding="utf-8"))
        if read["for"] != _for(question):
            return None
        size = int(read["size"])
        if not 1 <= size <= question.own_size:
            return None
        return size, f"{read['reason']} (measured before; delete {record} to measure again)"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured(record: Path, question: Question) -> tuple[int, str]:
    print(f"measuring at which size this machine can train; the images are {question.own_size}x{question.own_size}")
    sys.stdout.flush()
    done = subprocess.run(
        [sys.executable, "-m", "ddpm.planning.trainable_size"],
        input=json.dumps(as_dict(question)),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(
            "the size that this machine can train could not be measured (the message above says why); set data.size "
            "in params.yaml, for instance to 32"
        )
    choice = json.loads(done.stdout)
    write_json(record, {"for": _for(question), **choice})
    return choice["size"], choice["reason"]


def _for(question: Question) -> dict[str, Any]:
    images = {"own_size": question.own_size, "channels": question.channels}
    return images | causes(question.settings)
