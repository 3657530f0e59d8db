"""A training, new or restored from its last checkpoint, ready to run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ddpm.compute import hardware
from ddpm.compute.hardware import Precision
from ddpm.compute.processes import any_of, leads, restarted, together
from ddpm.compute.settings import Runtime
from ddpm.diffusion.processes import make_process
from ddpm.errors import UserError
from ddpm.images import Images
from ddpm.model_spec import Spec, build_network
from ddpm.networks.autoencoder_kl import AutoencoderKL
from ddpm.networks.conditioned import Conditional
from ddpm.networks.gan import Adversaries, Discriminator, Generator
from ddpm.networks.patch_discriminator import JudgedAutoencoder, PatchDiscriminator
from ddpm.networks.settings import Kind
from ddpm.seeding import seed_of
from ddpm.settings import as_dict
from ddpm.training import checkpoint, finished, lora
from ddpm.training.batches import Batches
from ddpm.training.checkpoint_writer import NotWrittenError, Writer
from ddpm.training.loop import State, Step, new_state, train
from ddpm.training.methods.diffusion import Diffusion
from ddpm.training.methods.direct import Direct
from ddpm.training.methods.method import Method
from ddpm.training.methods.reconstruction import ERRORS, Perceptual, Reconstruction, terms_of
from ddpm.training.settings import Autoencoder, Train, determining
from ddpm.training.sharding import compile_steps, is_sharded, require_same, whole
from ddpm.training.start import Parent, Start, take_over
from ddpm.training.times import make_times

TERMS: dict[Kind, tuple[str, ...]] = {
    "diffusion": Diffusion.terms,
    "vae": ("reconstruction", "kl"),
    "gan": ("loss_D", "loss_G", "r1", "D_real", "D_generated"),
    "autoencoder": ERRORS,
}
"""Names of the means that the curves of each method have besides the loss."""
_PARTS: dict[type[Conditional], str] = {Adversaries: "generator", JudgedAutoencoder: "autoencoder"}
"""The part of a network in training that is the model, of those that have a discriminator, too."""


@dataclass
class Training:
    """A training, new or restored, ready to run."""

    state: State
    batches: Batches
    spec: Spec
    settings: Train
    runtime: Runtime
    device: torch.device
    precision: Precision
    folder: Path
    fingerprint: str
    """Hash of parameters, data, code and planned length: with the same one a kind of machine makes one model."""
    code_hash: str
    extra: dict[str, Any]
    """Stored with every checkpoint: the curves so far, the sums of the current interval, the tracker's run."""
    start: Start | None = None
    """What was taken over from another model; None without train.start."""
    autoencoder: Autoencoder | None = None
    """The losses of method autoencoder; None for the other methods."""
    perceptual: Perceptual | None = None
    """The perceptual distance among these losses."""
    saved_images: int = 0
    """Images seen at the last checkpoint; a killed training continues from there."""
    saved_run: str | None = None
    """The tracker's run at the last checkpoint."""
    _writer: Writer = field(init=False)
    _writing: tuple[int, str | None] | None = field(init=False, default=None)
    """Images seen and the tracker's run in the checkpoint that is being written."""

    def __post_init__(self) -> None:
        self._writer = Writer(self.folder, fingerprint=self.fingerprint)

    @property
    def parameters(self) -> int:
        """Number of parameters of the network, without adapters."""
        return sum(p.numel() for name, p in self.state.network.named_parameters() if not lora.is_adapter(name))

    @property
    def trained(self) -> int:
        """Number of parameters that are trained, among them those of adapters."""
        return sum(p.numel() for p in self.state.network.parameters() if p.requires_grad)

    def steps(self, ask: Callable[[], Sequence[bool]] = tuple) -> Iterator[Step]:
        """Train on, step by step; see `loop.train`."""
        return train(
            self.state,
            self.batches,
            method=self._method(),
            settings=self.settings,
            device=self.device,
            precision=self.precision,
            device_batch=self.runtime.device_batch,
            gradients=self.runtime.gradients,
            ask=ask,
            degrading=self.spec.image,
        )

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the means that the curves have besides the loss."""
        return TERMS[self.spec.method] if self.autoencoder is None else terms_of(self.autoencoder)

    def _method(self) -> Method:
        if self.autoencoder is not None:
            within = partial(hardware.autocast, self.device, self.precision)
            return Reconstruction(self.spec, self.autoencoder, perceptual=self.perceptual, within=within)
        if self.spec.method != "diffusion":
            return Direct(self.spec, terms=self.terms)
        process = make_process(self.spec.schedule)
        times = make_times(process, self.settings, memory=self.state.times, device=self.device)
        return Diffusion(process, times, self.spec.objective)

    def average(self) -> nn.Module:
        """Return the averaged network of the model, with adapters merged into its weights, without a discriminator.

        A sharded network is gathered, so all processes must call this.
        """
        average = self.state.ema.network
        part = next((name for kind, name in _PARTS.items() if isinstance(average, kind)), "")
        if not is_sharded(average) and not self.settings.lora.rank:
            return average.get_submodule(part)
        gathered = {name: whole(tensor).cpu() for name, tensor in average.state_dict().items()}
        prefix = f"{part}." if part else ""
        weights = {name.removeprefix(prefix): gathered[name] for name in gathered if name.startswith(prefix)}
        network = build_network(self.spec)
        network.load_state_dict(lora.merged(weights, self.settings.lora))
        return network.to(self.device).eval()

    def save(self, *, wait: bool = False) -> None:
        """Copy the state, and write it as a checkpoint while the training continues; with `wait`, before this returns.

        The checkpoint before is finished first, so that there is one copy at most. If the disk is full, the training
        continues, since there may be space the next time. All processes must call this.
        Raises UserError if the first checkpoint cannot be written, because the training would run unprotected.
        """
        self.settle()
        self._writer.begin(self.state, extra=self.extra)
        self._writing = self.state.images_seen, self.extra.get("run_id")
        if wait or not self.state.images_seen:
            self.settle()

    def settle(self, *, together: bool = True) -> None:
        """Wait for the checkpoint that is being written, if there is one; if it could not be written, say so.

        All processes must call this, unless `together` is False: then no other process is asked, because it may be
        lost.
        """
        if self._writing is None:
            return
        (images_seen, run), self._writing = self._writing, None
        try:
            self._writer.finish(together=together)
        except NotWrittenError as error:
            if not images_seen:
                raise UserError(f"{error}, so no state can be saved; make space there and start again") from None
            if leads() or error.__cause__ is not None:
                print(f"{error}; only the first {self.saved_images} images of this training are saved")
        else:
            self.saved_images, self.saved_run = images_seen, run

    def close(self) -> None:
        """Wait for the checkpoint that is being written, without the other processes."""
        self.settle(together=False)

    def forget(self) -> None:
        """Remove the checkpoints and everything else that is stored about this training."""
        if leads():
            finished.clear(self.folder)

    def report(self) -> dict[str, float | None]:
        """Return three metrics of the training so far; the loss is that of the last logging interval that has one."""
        losses = [row["loss"] for row in self.extra.get("curves", []) if row["loss"] is not None]
        return {
            "loss": losses[-1] if losses else None,
            "images_seen": self.state.images_seen,
            "nonfinite_steps": int(self.state.nonfinite_steps),
        }

    def keep(self, model: Path) -> None:
        """Note that the training ended with the file `model`; keep the last checkpoint until DVC has recorded it."""
        if leads():
            finished.keep(self.folder, model=model, run_id=self.extra.get("run_id"))


def fingerprint_of(
    spec: Spec,
    settings: Train,
    *,
    data_hash: str,
    code_hash: str,
    parent: Parent | None = None,
    autoencoder: Autoencoder | None = None,
    perceptual: Perceptual | None = None,
) -> str:
    """Return the hash of parameters, data, code, parent and perceptual distance: the name of the training's folder."""
    parts = {"spec": as_dict(spec), "train": determining(settings), "data": data_hash, "code": code_hash}
    if autoencoder is not None:
        parts["losses"] = {
            "weights": as_dict(autoencoder),
            "perceptual": None if perceptual is None else perceptual.sha256,
        }
    return checkpoint.fingerprint(parts | {"start": parent and parent.identity["sha256"]})


def _network_in_training(spec: Spec, autoencoder: Autoencoder | None = None) -> Conditional:
    """Return the untrained network of the model, and beside it the discriminator if the method trains one."""
    network = build_network(spec)
    if autoencoder is not None and autoencoder.adversarial_weight:
        assert isinstance(network, AutoencoderKL)
        judge = PatchDiscriminator(channels=spec.channels, size=spec.size, width=autoencoder.width)
        return JudgedAutoencoder(network, judge)
    if spec.gan is None:
        return network
    assert isinstance(network, Generator)
    discriminator = Discriminator(
        channels=spec.channels,
        size=spec.size,
        classes=len(spec.classes),
        width=spec.gan.width,
    )
    return Adversaries(network, discriminator, r1_gamma=spec.gan.r1_gamma)


def begin(
    spec: Spec,
    images: Images,
    conditions: np.ndarray | None,
    *,
    data_hash: str,
    code_hash: str,
    settings: Train,
    runtime: Runtime,
    device: torch.device,
    precision: Precision,
    state_folder: Path,
    parent: Parent | None = None,
    planned: Train | None = None,
    autoencoder: Autoencoder | None = None,
    perceptual: Perceptual | None = None,
) -> Training:
    """Return a training of the network in `spec`, restored from its last checkpoint if there is one.

    A new training starts from the weights of `parent`. Checkpoints are in `state_folder/<fingerprint>`: with other
    parameters, data or code or another parent it is another training. `planned` are the settings with the length that
    was planned for train.minutes; the folder's name does not depend on it, but a checkpoint of another one is refused.
    `code_hash` is the hash of all code on which the result depends (`checkpoint.code_hash`).
    For method autoencoder, `autoencoder` has the losses, of which `settings` are `train_of` and the spec's codec is
    `codec_of`; `perceptual` is needed unless its weight is 0, and stays out of the state, the average and the model.
    Raises UserError if runtime.resume is `required` and there is nothing to resume, if the parent shares no weights, or
    if train.lora needs peft, which is not installed.
    """
    losses: dict[str, Any] = {"autoencoder": autoencoder, "perceptual": perceptual}
    fingerprint = fingerprint_of(spec, settings, data_hash=data_hash, code_hash=code_hash, parent=parent, **losses)
    folder = state_folder / fingerprint
    if planned is not None:  # a checkpoint of another planned length is not continued
        settings, fingerprint = planned, checkpoint.fingerprint({"training": fingerprint, "as": determining(planned)})
    torch.manual_seed(seed_of("init", settings.seed))
    network = _network_in_training(spec, autoencoder)
    start = None if parent is None else take_over(network, spec, parent, transforms=settings.augment.transforms)
    if start is not None and settings.lora.rank:
        lora.adapt(network, start.whole, settings.lora)
    training = Training(
        state=new_state(
            network.to(device),
            settings=settings,
            parallel=runtime.parallel,
            gradients=runtime.gradients,
            precision=precision,
            trained=start is not None and start.is_whole,
            beta1=0.9 if spec.gan is None else spec.gan.beta1,
        ),
        batches=Batches(
            images,
            conditions,
            batch_size=settings.batch_size,
            seed=settings.seed,
            flip=settings.flip,
            device=device,
            shuffle_shards=settings.shuffle_shards,
        ),
        spec=spec,
        settings=settings,
        runtime=runtime,
        device=device,
        precision=precision,
        folder=folder,
        fingerprint=fingerprint,
        code_hash=code_hash,
        extra={},
        start=start,
        **losses,
    )
    if hardware.compiles(runtime.compile, device) and spec.method != "gan":  # R1 is differentiated twice
        compile_steps(training.state.network)
    if runtime.resume == "never" and not any_of(restarted())[0]:
        training.forget()
        together()
        return training
    extra, refused = checkpoint.restore(training.folder, training.state, fingerprint=fingerprint)
    require_same(training.state.images_seen, what="the last checkpoint")
    for sentence in refused if leads() else ():
        print(sentence)
    if refused and extra is None and runtime.resume != "required" and leads():
        print("no usable checkpoint is left; the training starts from the beginning")
    if extra is not None:
        training.extra, training.saved_images = extra, training.state.images_seen
        training.saved_run = extra.get("run_id")
        if leads():
            print(f"continuing after {training.state.images_seen} images, from {training.folder}")
    elif runtime.resume == "required":
        raise UserError(
            f"runtime.resume is required, but {training.folder} has no checkpoint of these parameters, data and code; "
            "set it to auto to start from the beginning"
        )
    return training
