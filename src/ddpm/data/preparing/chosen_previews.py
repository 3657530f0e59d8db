"""Choose the files that previews.npy shows, and make their pictures: at most about 1,200, for any number of files."""

from collections.abc import Sequence

import numpy as np

from ddpm.data.preparing.assemble import pieces, shard_task
from ddpm.data.preparing.decode_file import code_of
from ddpm.data.preparing.decode_source import Decoded
from ddpm.data.preparing.layout import OPEN, TEST, TRAIN
from ddpm.data.preparing.picture_file import Reading
from ddpm.data.preparing.reasons import DUPLICATE
from ddpm.data.preparing.rejected_thumbnail import SHOWN, thumbnail
from ddpm.data.preparing.settings import Data
from ddpm.data.preparing.sources import Found
from ddpm.data.previews import CLASS, REJECTED, SIDE, Previews

_CLASS_PICTURES, _PER_CLASS, _WITHOUT_CLASSES = 1000, 10, 60
_PER_EXTREME, _PER_REASON, _REJECTED = 8, 8, 96
_LONG = 1.5
"""An image whose longer side is more than this many times the shorter one has a long shape."""


def choose_previews(
    data: Data, found: Found, decoded: Decoded, splits: np.ndarray, labels: np.ndarray, *, n_classes: int
) -> Previews:
    """Return previews of some training images of each class, of extreme images, and of rejected files.

    `splits` and `labels` [N] as in the manifest; labels are -1 without classes.
    """
    records, kept = decoded.records, np.flatnonzero(splits != OPEN)
    rows, kinds = [training_rows(splits, labels, n_classes)], [CLASS]
    for kind, chosen in _extremes(records, splits, kept, size=decoded.target.size).items():
        rows.append(chosen)
        kinds.append(kind)
    duplicates = np.flatnonzero(records["reason"] == code_of(DUPLICATE))[:_PER_REASON]
    rows.append(duplicates)
    kinds.append(REJECTED)
    stored = _stored_pictures(decoded, np.concatenate(rows))
    read_rows, read = _read_pictures(data, found, records, shape=stored.shape[1:])
    return Previews(
        row=np.concatenate([*rows, read_rows]),
        kind=np.concatenate(
            [np.full(len(part), kind, "U12") for part, kind in zip(rows, kinds, strict=True)]
            + [np.full(len(read_rows), REJECTED, "U12")]
        ),
        pixels=np.concatenate([stored, read]),
    )


def training_rows(splits: np.ndarray, labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return training rows, evenly spaced within each class; without classes, within all."""
    train = np.flatnonzero(splits == TRAIN)
    if not n_classes:
        return _evenly(train, _WITHOUT_CLASSES)
    by_label = train[np.argsort(labels[train], kind="stable")]
    bounds = np.searchsorted(labels[by_label], np.arange(n_classes + 1))
    most = max(1, min(_PER_CLASS, _CLASS_PICTURES // n_classes))
    chosen = [_evenly(by_label[bounds[k] : bounds[k + 1]], most) for k in range(min(n_classes, _CLASS_PICTURES))]
    return np.concatenate(chosen)


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    n = min(most, len(rows))
    return rows[np.arange(n) * len(rows) // max(n, 1)]


def _extremes(records: np.ndarray, splits: np.ndarray, kept: np.ndarray, *, size: int) -> dict[str, np.ndarray]:
    """Return rows by key of previews.EXTREMES, the most extreme first."""
    mean, std = records["mean"][kept], records["std"][kept]
    shorter = np.minimum(records["width"], records["height"])[kept]
    shape = np.maximum(records["width"], records["height"])[kept] / np.maximum(shorter, 1)
    # The first 8 bytes of a digest are enough to choose pictures, and save memory.
    beginnings = np.ascontiguousarray(records["pixel_sha256"][:, :8]).view(np.uint64).ravel()
    held_out = np.flatnonzero(splits == TEST)
    return {
        "darkest": kept[_first(mean)],
        "brightest": kept[_first(-mean)],
        "flattest": kept[_first(std)],
        "enlarged": kept[_first(shorter, among=shorter < size)],
        "longest": kept[_first(-shape, among=shape > _LONG)],
        "in_train": held_out[np.isin(beginnings[held_out], beginnings[splits == TRAIN])][:_PER_EXTREME],
    }


def _first(values: np.ndarray, *, among: np.ndarray | None = None) -> np.ndarray:
    """Return the indices of the lowest values, at most _PER_EXTREME; `among` bool [N] selects."""
    order = np.argsort(values, kind="stable")
    return (order if among is None else order[among[order]])[:_PER_EXTREME]


def _stored_pictures(decoded: Decoded, rows: np.ndarray) -> np.ndarray:
    """Return the prepared pixels of decoded files, reduced to at most SIDE pixels, uint8 [n,C,S,S]."""
    from PIL import Image

    target = decoded.target
    side = min(SIDE, target.size)
    if not len(rows):
        return np.empty((0, target.channels, side, side), np.uint8)
    task = shard_task(
        decoded.located,
        decoded.pixel_rows,
        rows,
        partitions=decoded.folder,
        folder=decoded.folder,
        number=0,
        target=target,
        store=None,
    )
    small = []
    for part in pieces(task):
        if side == target.size:
            small.append(part.copy())
            continue
        for image in part.transpose(0, 2, 3, 1):
            picture = Image.fromarray(image[:, :, 0] if target.channels == 1 else image)
            reduced = np.asarray(picture.resize((side, side), Image.Resampling.BOX))
            small.append(reduced.reshape(1, side, side, target.channels).transpose(0, 3, 1, 2))
    return np.concatenate(small)


def _read_pictures(
    data: Data, found: Found, records: np.ndarray, *, shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows, uint8 [n,C,S,S]) of rejected files that can be shown all the same, some for each reason."""
    rows: list[int] = []
    pictures: list[np.ndarray] = []
    reading = Reading(max_pixels=data.max_pixels, max_bytes=data.max_picture_bytes, white=data.white)
    for reason in SHOWN:
        for row in np.flatnonzero(records["reason"] == code_of(reason))[:_PER_REASON].tolist():
            path = found.inputs[row]
            picture = thumbnail(path, reading, shape=tuple(shape)) if isinstance(path, str) else None
            if picture is not None and len(rows) < _REJECTED:
                rows.append(row)
                pictures.append(picture)
    return np.array(rows, np.int64), np.array(pictures, np.uint8).reshape(-1, *shape)
