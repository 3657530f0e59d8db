"""This project: `ddpm.training.session`."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import Images
from torch import Tensor

from contenders import EMA, RAW, Budget, Draw, Setting, class_names

if TYPE_CHECKING:
    from ddpm.compute.settings import Runtime
    from ddpm.generation.recipe import Recipe
    from ddpm.model_file import Model
    from ddpm.params import Params
    from ddpm.training.session import Training
    from ddpm.training.start import Parent

UNPLANNED = 10**12
"""Images of a training whose speed is not known yet: no learning rate decays before there is a plan."""


@dataclass
class Ours:
    """`labels`: whether the classes are learned and drawn, all alike often."""

    params: "Params"
    labels: bool = True
    snapshots: tuple[float, ...] = ()
    """Seconds of training after which the average is kept, too."""
    autoencoder: "Model | None" = None
    """The autoencoder whose latents of the images are trained on; None: their pixels are."""
    planned: list[int] = field(default_factory=list)
    """Images of each plan, in order."""

    weights = EMA

    @property
    def name(self) -> str:
        seed = self.params.train.seed
        return ("ours" if self.labels else "ours-unlabelled") + (f"-seed-{seed}" if seed else "")

    @property
    def default(self) -> Setting:
        from ddpm.diffusion.processes import make_process
        from ddpm.generation.recipe import recipe_in
        from ddpm.sampling.drawing import evaluations

        recipe = recipe_in(self.params.sample, self.params.runtime.precision)
        return setting_of(recipe, evaluations(recipe, make_process(self.params.schedule)))

    @property
    def ladder(self) -> tuple[Setting, ...]:
        return (self.default,)

    def choices(self) -> str:
        p = self.params
        network, train = p.network, p.train
        precise = "float32 or, where the processor computes in it, bfloat16"
        return (
            f"U-Net of patches of {network.patch}, width {network.width}, multipliers {list(network.multipliers)}, "
            f"{network.blocks} blocks; {p.schedule.name} schedule, target {p.objective.target}, weight "
            f"{p.objective.weight}, {'bounded' if p.objective.bounded else 'free'} estimate; {train.optimizer}, batch "
            f"{train.batch_size}, learning rate {train.lr:g}, label dropout {train.label_dropout:g}; "
            f"{'classes are' if self.labels else 'no class is'} learned; {precise}. "
            "The weights are always the EMA's, as in a model file."
        )

    def train(self, images: Images, budget: Budget, folder: Path) -> list[str]:
        with tempfile.TemporaryDirectory() as state:
            training = self.begin(images, Path(state))
            kept = self._run(training, budget, folder)
            budget.end()
        self._save(training, training.state.network, folder, RAW)
        self._save(training, training.average(), folder, EMA)
        return [RAW, EMA, *kept]

    def begin(self, images: Images, state: Path) -> "Training":
        from ddpm.compute import hardware
        from ddpm.encoding.encode import encoded
        from ddpm.training import session
        from ddpm.training.spec import spec_of

        labels = images.train_labels if self.labels else None
        _, channels, size, _ = images.train.shape
        names = ("method", "schedule", "objective", "network", "vae", "gan", "train")
        sections = {name: getattr(self.params, name) for name in names}
        classes = class_names(images) if self.labels else ()
        samples = images.train
        if self.autoencoder is not None:
            sections |= {"codec": "autoencoder", "autoencoder": self.autoencoder.spec.codec}
            samples = np.concatenate(
                [encoded(self.autoencoder, rows, precision="float32") for rows in np.array_split(samples, 100)]
            )
        spec = spec_of(channels=channels, size=size, classes=classes, **sections)
        device = hardware.choose_device(self.params.runtime.device)
        return session.begin(
            spec,
            samples,
            labels,
            data_hash=images.name,
            code_hash="of one run",
            settings=replace(self.params.train, images=UNPLANNED, minutes=None),
            runtime=replace(self.params.runtime, resume="never"),
            device=device,
            precision=hardware.choose_precision(self.params.runtime.precision, device, spec.noise_size),
            state_folder=state,
            parent=self.parent(),
        )

    def parent(self) -> "Parent | None":
        """The model that the training starts from; none."""
        return None

    def _run(self, training: "Training", budget: Budget, folder: Path) -> list[str]:
        """Steps until the time or the plan is over. A plan begins the generator of steps anew, from where it stands."""
        from ddpm.planning.length import fitted

        waiting, kept = sorted(self.snapshots), []
        while not budget.over and training.state.images_seen < training.settings.images:
            for step in training.steps():
                budget.note(step.images_seen)
                if waiting and budget.spent >= waiting[0] and not budget.over:
                    with budget.pause():
                        kept.append(f"{EMA} after {waiting.pop(0) / 60:g} min")
                        self._save(training, training.average(), folder, kept[-1])
                total = budget.plan()
                if total is not None:
                    training.settings = fitted(self.params.train, total)
                    training.state.ema.halflife_images = training.settings.ema_halflife_images
                    self.planned.append(total)
                if total is not None or budget.over:
                    break
        return kept

    def _save(self, training: "Training", network: torch.nn.Module, folder: Path, weights: str) -> None:
        from ddpm import model_file
        from ddpm.settings import as_dict

        told = {name: as_dict(getattr(self.params, name)) for name in ("sample", "train")}
        lineage = {"params": told, "images_seen": training.state.images_seen}
        codec = None if self.autoencoder is None else self.autoencoder.codec
        model_file.save(_file(folder, weights), network=network, spec=training.spec, lineage=lineage, codec=codec)

    def drawer(self, folder: Path, weights: str) -> Draw:
        return file_drawer(_file(folder, weights), self.params.runtime)


def setting_of(recipe: "Recipe", evaluations: int) -> Setting:
    """A setting that draws by this recipe; `evaluations` is its cost for an image."""
    return Setting(f"{recipe.sampler} {recipe.steps}, {recipe.time_grid} grid", evaluations, {"recipe": recipe})


def file_drawer(path: Path, runtime: "Runtime") -> Draw:
    """Draws with the model in the file by the recipe of a setting; all classes alike often."""
    from ddpm import model_file
    from ddpm.compute.hardware import choose_device
    from ddpm.generation.generate import balanced_labels, generate

    model = model_file.load(path, choose_device(runtime.device))
    classes = len(model.spec.classes)

    def draw(n: int, seed: int, setting: Setting) -> Tensor:
        labels = balanced_labels(n, classes, seed) if classes else None
        return generate(model, setting.told["recipe"], n=n, seed=seed, condition=labels, batch=runtime.sample_batch)

    return draw


def _file(folder: Path, weights: str) -> Path:
    return folder / f"{weights.replace(' ', '_')}.safetensors"
