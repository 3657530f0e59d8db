"""A tiny model that knows captions, and a folder of pictures with captions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CAPTIONS = tuple(f"a {first} left of a {second}" for first in ("black", "white") for second in ("black", "white"))
LEVELS = {"black": 0, "white": 255}


def text_of_spec(*, length: int = 16, examples: tuple[str, ...] = CAPTIONS) -> dict[str, Any]:
    """Changes of `conftest.TINY_SPEC` that make it a model of captions."""
    from ddpm.settings import as_dict
    from ddpm.text.tokenizer import learn

    text = {"vocabulary": 300, "length": length, "width": 16, "layers": 1, "head_channels": 8}
    tokenizer = as_dict(learn(CAPTIONS, size=300))
    return {"classes": [], "text": text | {"examples": list(examples)}, "tokenizer": tokenizer}


def pixels(caption: str) -> np.ndarray:
    """The picture of one of CAPTIONS: uint8 [8, 8], its halves black or white."""
    _, first, _, _, _, second = caption.split()
    return np.repeat([[LEVELS[first]] * 4 + [LEVELS[second]] * 4], 8, axis=0).astype(np.uint8)


def draw_pictures(folder: Path, n: int, *, seed: int = 0) -> list[str]:
    """Write n pictures with a little noise and their captions, all CAPTIONS equally often, and return the captions."""
    random, rows = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n):
        caption = CAPTIONS[k % len(CAPTIONS)]
        noisy = np.clip(pixels(caption) + random.integers(-30, 31, (8, 8)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{k:04}.png")
        rows.append({"file_name": f"{k:04}.png", "text": caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row["text"] for row in rows]


def halves_right(images: np.ndarray, captions: list[str]) -> float:
    """Share of the images, uint8 [N,1,8,8], whose two halves are both as bright as their captions say."""
    wanted = np.stack([pixels(caption) for caption in captions])[:, ::8, ::4] > 127  # [N, 1, 2]
    found = images[:, 0].reshape(-1, 8, 2, 4).mean((1, 3)) > 127
    return float((found == wanted[:, 0]).all(1).mean())
