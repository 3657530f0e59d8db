"""What stages write where the pixels of images diffuse, so that there is neither an autoencoder nor a latent.

The content is constant. It is written without torch, which takes seconds to import.
"""

from pathlib import Path

from ddpm.data.reading.dataset import FACTS_OF_LATENTS
from ddpm.files import write_json

PIXELS = {"codec": "pixels"}


def write_no_autoencoder(path: Path) -> None:
    """Write a safetensors file without tensors, which is no model file."""
    from safetensors import serialize_file

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    serialize_file({}, str(aside), PIXELS)
    aside.replace(path)


def write_no_latents(folder: Path) -> None:
    """Write into the new `folder` that there are no latents."""
    folder.mkdir(parents=True)
    write_json(folder / FACTS_OF_LATENTS, PIXELS)
