"""A contest of two models whose features are simulated, so that their distances to the real images are known."""

from collections.abc import Callable, Collection

import numpy as np

from ddpm.measuring.features.extractor import Described
from ddpm.measuring.frechet import fid_and_fid_infinity
from ddpm.measuring.measured import Measured, Pair

Real = Callable[[np.ndarray, int], np.ndarray]
"""Maps standard normal noise [N,D] and the number of the first image to features of real images [N,D]."""
Model = Callable[[np.ndarray], np.ndarray]
"""Maps features of real images [N,D] to those of the model's images."""


class SimulatedContest:
    """A candidate and its champion as a `promotion.gate.Contest`, by their FID against m real images.

    Image k of both models is drawn from noise of which the share `shared` is the same.
    """

    remarks = ()

    def __init__(
        self,
        random: np.random.Generator,
        *,
        n: int,
        m: int,
        dim: int,
        real: Real,
        models: tuple[Model, Model],
        described: Callable[[np.ndarray], Described],
        shared: float,
    ) -> None:
        """`models` are the candidate and the champion; `n` images of each are drawn for the first look."""
        self._random, self._dim, self._shared = random, dim, shared
        self._real, self._models, self._described = real, models, described
        self._reference = described(real(random.standard_normal((m, dim)), 0))
        self._drawn: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        self.images = 0
        self.draw_more(n)

    def draw_more(self, images: int) -> None:
        shape = images - self.images, self._dim
        common = self._random.standard_normal(shape)
        for drawn, model in zip(self._drawn, self._models, strict=True):
            own = self._random.standard_normal(shape)
            noise = np.sqrt(self._shared) * common + np.sqrt(1 - self._shared) * own
            drawn.append(model(self._real(noise, self.images)))
        self.images = images

    def pairs(self, figures: Collection[str]) -> dict[str, Pair]:
        candidate, champion = (self._fid(drawn) for drawn in self._drawn)
        return {"fid": Pair(candidate, champion)}

    def _fid(self, drawn: list[np.ndarray]) -> Measured:
        return fid_and_fid_infinity(self._described(np.concatenate(drawn)), self._reference)[0]
