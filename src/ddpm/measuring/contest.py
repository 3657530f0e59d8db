"""Draw candidate and champion with the same seeds and labels, and measure both on the same reference images."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ddpm.compute.hardware import choose_device
from ddpm.compute.settings import Runtime
from ddpm.data.reading.dataset import Split, read_split
from ddpm.degrading.settings import ImageCondition
from ddpm.errors import UserError
from ddpm.generation.generate import Rows, balanced_labels, evaluation_conditions, generate
from ddpm.generation.recipe import Recipe, recipe_of
from ddpm.images import Images
from ddpm.measuring import bits_per_dim, fidelity
from ddpm.measuring.features.extractor import Described, FeatureExtractor, describe
from ddpm.measuring.features.extractor_file import load_extractor, load_second
from ddpm.measuring.frechet import fid_and_fid_infinity
from ddpm.measuring.measured import Measured, Pair, from_influences
from ddpm.measuring.metric_catalogue import METRICS
from ddpm.measuring.settings import Evaluate
from ddpm.measuring.strata import Labels
from ddpm.model_file import Model
from ddpm.seeding import seed_of
from ddpm.settings import as_dict
from ddpm.text.conditions import Captions, of_held_out

ROUNDS = 16
"""Rounds in which both models are timed in turn."""
ROUND_IMAGES = 8
"""Images that a model draws in a round."""
_BY_FEATURES = ("fid", "fid_infinity")
_LIKELIHOOD = {metric.name for metric in METRICS if metric.group == "likelihood"}


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How both models are measured."""

    prepared: Path
    """The folder of the prepared images."""
    extractor: Path
    second: Path
    """The second extractor, or the file that says that there is none."""
    evaluate: Evaluate
    runtime: Runtime

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.runtime.device)

    @cached_property
    def network(self) -> FeatureExtractor:
        return load_extractor(self.extractor, self.device)

    @cached_property
    def second_network(self) -> FeatureExtractor | None:
        return load_second(self.second, self.device)

    @cached_property
    def train(self) -> Split:
        return read_split(self.prepared, "train", self.runtime)

    @cached_property
    def test(self) -> Split:
        return read_split(self.prepared, "test", self.runtime)


@dataclass(eq=False)
class _Side:
    """A model with the images drawn of it so far, one block after the other."""

    model: Model
    recipe: Recipe
    blocks: list[np.ndarray] = field(default_factory=list)
    features: list[Described] = field(default_factory=list)
    """Those of the first blocks."""
    likelihood: bits_per_dim.BitsPerDim | None = None
    """None: not measured yet."""

    @property
    def images(self) -> Images:
        return np.concatenate(self.blocks)

    @property
    def described(self) -> Described:
        parts = self.features
        return Described(torch.cat([each.features for each in parts]), torch.cat([each.logits for each in parts]))


class PairedContest:
    """A candidate and its champion, or a candidate alone: a `promotion.gate.Contest`.

    Image k of a block has the same seed for both models and, if both have the same classes or know captions, the same
    label, caption or picture. Block 0 is that of the evaluation. Each model is drawn by the recipe in its
    file, as it is used.
    """

    def __init__(
        self, candidate: Model, champion: Model | None, *, first_block: Images, seed: int, measuring: Measuring
    ) -> None:
        """`first_block` has the candidate's n images of the seed, uint8 [n,C,H,W]; n is the size of all blocks.

        Raises UserError for a champion without a recipe.
        """
        self._n, self._seed, self._measuring = len(first_block), seed, measuring
        self._candidate = _side(candidate, "candidate")
        self._champion = None if champion is None else _side(champion, "champion")
        self._candidate.blocks.append(np.asarray(first_block))
        self._seconds: dict[int, list[float]] = {}
        self._block_seconds: float | None = None
        """Time of the champion's first block."""
        self.paired = champion is None or _conditions(champion) == _conditions(candidate)

    @property
    def images(self) -> int:
        return self._n * len(self._candidate.blocks)

    @property
    def remarks(self) -> tuple[str, ...]:
        if self.paired:
            return ()
        return ("candidate and champion have different conditions, so their images are not compared in pairs",)

    def champion_record(self) -> dict[str, Any]:
        """Return the champion's metrics on its first block by the candidate's protocol, as in reports/metrics.json."""
        assert self._champion is not None
        self._draw_block_0()
        return self._record_of(self._champion)

    def candidate_record(self) -> dict[str, Any]:
        """Return the same of the candidate."""
        return self._record_of(self._candidate)

    def candidate_likelihood(self) -> dict[str, float]:
        """Return the candidate's bits per dimension by metric name, as stage `evaluate` measures them.

        Empty if evaluate.bits_per_dim is 0, and for a GAN, which has no likelihood.
        """
        return self._likelihood_of(self._candidate).numbers()

    def _record_of(self, side: _Side) -> dict[str, Any]:
        of = self._measuring
        record, *_ = fidelity.measure_images(
            side.blocks[0],
            of.train.images,
            of.test.images,
            labels=(self._labels(side, 1), of.train.labels, of.test.labels),
            extractor=of.network,
            second=of.second_network,
            settings=of.evaluate,
            drawing=as_dict(side.recipe),
            seed=self._seed,
            device=of.device,
            progress=of.runtime.progress,
        )
        return record.to_json()

    def draw_more(self, images: int) -> None:
        """Draw whole blocks of both models until there are so many images of each, and print how long that takes."""
        if self._block_seconds is not None:
            left = sum(math.ceil(images / self._n) - len(side.blocks) for side in self._sides())
            minutes = left * self._block_seconds / 60
            print(f"that takes about {minutes:,.1f} minutes, by the time of the champion's first images", flush=True)
        for side in self._sides():
            while len(side.blocks) * self._n < images:
                self._draw_block(side)

    def pairs(self, figures: Collection[str]) -> dict[str, Pair]:
        """Return these metrics, measured on all images drawn so far; a time on ROUNDS rounds.

        FID needs features alone, so a look at a new block costs little; other metrics measure all images again.
        """
        self._draw_block_0()
        ways = dict.fromkeys(_BY_FEATURES, self._fid) | dict.fromkeys(_LIKELIHOOD, self._likelihood)
        ways["seconds_per_image"] = self._times
        found: dict[str, Pair] = {}
        for way in dict.fromkeys(ways.get(name, self._record) for name in figures):
            found |= {name: pair for name, pair in way().items() if ways.get(name, self._record) == way}
        return {name: found.get(name, Pair(None, None)) for name in figures}

    def _sides(self) -> list[_Side]:
        return [side for side in (self._candidate, self._champion) if side is not None]

    def _draw_block_0(self) -> None:
        if self._champion is not None and not self._champion.blocks:
            print(f"drawing {self._n:,} images of the champion by its own recipe", flush=True)
            began = time.perf_counter()
            self._draw_block(self._champion)
            self._block_seconds = time.perf_counter() - began

    def _draw_block(self, side: _Side) -> None:
        drawn = draw_block(side.model, self._n, self._seed, len(side.blocks), self._measuring)
        side.blocks.append(np.asarray(drawn))

    @cached_property
    def _reference(self) -> Described:
        of = self._measuring
        images, labels = fidelity.reference_images(of.test.images, of.evaluate, seed=self._seed, labels=of.test.labels)
        found = describe(of.network, images, device=of.device, progress=of.runtime.progress, what="held-out")
        return found.of_classes(labels)

    def _fid(self) -> dict[str, Pair]:
        of = self._measuring

        def metrics(side: _Side) -> Mapping[str, Measured | None]:
            for block in side.blocks[len(side.features) :]:
                described = describe(
                    of.network, block, device=of.device, progress=of.runtime.progress, what="generated"
                )
                side.features.append(described)
            described = side.described.of_classes(self._labels(side, len(side.blocks)))
            return dict(zip(_BY_FEATURES, fid_and_fid_infinity(described, self._reference), strict=True))

        return self._of_both(metrics)

    def _record(self) -> dict[str, Pair]:
        of = self._measuring

        def metrics(side: _Side) -> Mapping[str, Measured | None]:
            compared = fidelity.compare_sets(
                side.images,
                of.train.images,
                of.test.images,
                labels=(self._labels(side, len(side.blocks)), of.train.labels, of.test.labels),
                extractor=of.network,
                second=of.second_network,
                settings=of.evaluate,
                seed=self._seed,
                device=of.device,
                progress=of.runtime.progress,
            )
            return fidelity.metrics_of(compared, extractor=of.network, settings=of.evaluate, seed=self._seed)

        return self._of_both(metrics)

    def _labels(self, side: _Side, blocks: int) -> Labels:
        """Return the labels of the images of these blocks, int64 [N]; None without classes."""
        classes = len(side.model.asked.classes)
        if not classes:
            return None
        seeds = [_seed_of_block(self._seed, block) for block in range(blocks)]
        return torch.cat([balanced_labels(self._n, classes, seed) for seed in seeds]).numpy()

    def _likelihood(self) -> dict[str, Pair]:
        """Measure both on the same held-out images, once; the images drawn have no part in it; a GAN has none."""

        def metrics(side: _Side) -> Mapping[str, Measured | None]:
            return {
                f"bits_per_dim_{name}": from_influences(float(values.mean()), None, values - values.mean())
                for name, values in self._likelihood_of(side).by_image.items()
            }

        return self._of_both(metrics) if self._measuring.evaluate.bits_per_dim > 1 else {}

    def _likelihood_of(self, side: _Side) -> bits_per_dim.BitsPerDim:
        """Return the likelihood of a model, measured at the first call."""
        of, n = self._measuring, self._measuring.evaluate.bits_per_dim
        if n == 0 or side.model.spec.method == "gan":
            return bits_per_dim.NOT_MEASURED
        if side.likelihood is None:
            side.likelihood = bits_per_dim.measure(
                side.model,
                of.test.images,
                of_held_out(side.model.spec, of.test.labels, of.test.known_captions, of.test.images),
                n=n,
                batch=of.runtime.sample_batch,
                progress=of.runtime.progress,
            )
        return side.likelihood

    def _times(self) -> dict[str, Pair]:
        """Time both models in turn, ROUNDS more rounds in each call, after a round that does not count."""
        for round_ in range(ROUNDS + (not self._seconds)):
            for k, side in enumerate(self._sides()):
                seconds = self._timed(side, round_)
                self._seconds.setdefault(k, []).append(seconds / ROUND_IMAGES)
        found = (np.array(values[1:]) for values in self._seconds.values())
        candidate, *champion = (from_influences(float(each.mean()), each - each.mean(), None) for each in found)
        return {"seconds_per_image": Pair(candidate, champion[0] if champion else None)}

    def _timed(self, side: _Side, seed: int) -> float:
        """Return the processor time of all threads on a CPU; elsewhere the time until the device has finished."""
        device = self._measuring.device
        clock = time.process_time if device.type == "cpu" else time.perf_counter
        condition = _conditions_of(side, ROUND_IMAGES, seed, self._measuring, captions=None)
        rows = None if condition is None else condition[:ROUND_IMAGES]  # making them is not timed
        began = clock()
        _draw(side, ROUND_IMAGES, seed, rows, ROUND_IMAGES)  # the images end on the CPU, after the device has finished
        return clock() - began

    def _of_both(self, metrics: Callable[[_Side], Mapping[str, Measured | None]]) -> dict[str, Pair]:
        own = metrics(self._candidate)
        other = {} if self._champion is None else metrics(self._champion)
        return {name: Pair(own[name], other.get(name), paired=self.paired) for name in own}


def draw_block(model: Model, n: int, seed: int, block: int, measuring: Measuring) -> Images:
    """Return n images of a model by its own recipe, uint8 [n,C,H,W]; block 0 has the seed itself.

    Labels are balanced, captions and pictures are those of held-out images, or the model's examples if these have no
    captions. Raises
    UserError for a model without a recipe.
    """
    own, runtime, side = _seed_of_block(seed, block), measuring.runtime, _side(model, "model")
    condition = _conditions_of(side, n, own, measuring, captions=lambda: measuring.test.known_captions())
    return _draw(side, n, own, condition, runtime.sample_batch, progress=runtime.progress)


def _seed_of_block(seed: int, block: int) -> int:
    return seed if block == 0 else seed_of("block", seed, block)


def _draw(side: _Side, n: int, seed: int, condition: Rows | None, batch: int, *, progress: bool = False) -> Images:
    drawn = generate(side.model, side.recipe, n=n, seed=seed, condition=condition, batch=batch, progress=progress)
    return drawn.numpy()


def _conditions_of(
    side: _Side, n: int, seed: int, measuring: Measuring, *, captions: Callable[[], Captions] | None
) -> Rows | None:
    return evaluation_conditions(
        side.model.asked,
        n=n,
        seed=seed,
        captions=captions,
        images=measuring.test.images,
        noise=side.recipe.picture_noise,
    )


def _conditions(model: Model) -> tuple[tuple[str, ...], bool, ImageCondition | None]:
    """What the images of two models must have in common to be drawn with equal labels, captions or pictures."""
    return model.asked.classes, model.asked.text is not None, model.asked.image


def _side(model: Model, called: str) -> _Side:
    recipe = recipe_of(model)
    if recipe is None:
        raise UserError(f"the {called} has no recipe for drawing its images; register it again with `dvc repro`")
    return _Side(model, recipe)
