"""The last images that a version drew, as features, and their distance from the images that were measured of it."""

from collections import deque
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ddpm.canary.drift import Drift, drift
from ddpm.canary.kept import Kept
from ddpm.measuring.features.extractor import FeatureExtractor, describe

_LOOKS = 4
"""The distance is measured again when a quarter of the window, the part 1 / _LOOKS, is new."""


class Window:
    """Features of the last images of one version. The images themselves are not kept."""

    def __init__(self, kept: Kept, images: int, device: torch.device) -> None:
        """`images` is the length of the window; before it is full, no distance is measured."""
        self._kept, self._images, self._device = kept, images, device
        self._features: deque[np.ndarray] = deque(maxlen=images)
        self._labels: deque[int] = deque(maxlen=images)
        self._new = 0
        self.seen = 0
        """Images whose features were computed."""
        self.drift: Drift | None = None
        """The last one measured."""

    def add(self, images: Tensor, labels: Tensor | None) -> Drift | None:
        """Compute the features of images, uint8 [N,C,H,W]; return the distance if it was measured anew.

        Raises UserError if the extractor cannot be read, as when its weights are missing here.
        """
        described = describe(self._extractor, images.numpy(), device=self._device, progress=False, what="served")
        self._features.extend(described.features.numpy())
        self._labels.extend([0] * len(images) if labels is None else labels.tolist())
        self.seen += len(images)
        self._new += len(images)
        if len(self._features) < self._images or self._new < self._images // _LOOKS:
            return None
        self._new = 0
        known_labels = None if labels is None else np.array(self._labels)
        self.drift = drift(np.stack(self._features), known_labels, self._kept)
        return self.drift

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        return self._kept.load_extractor(self._device)
