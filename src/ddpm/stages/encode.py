"""DVC stage `encode`: encode the training images as latents, and measure how well the autoencoder restores images.

With codec pixels there is nothing to do, and the outputs say so.
"""

import shutil
from typing import Any

from ddpm.stages.stage import Stage, execute

COLUMNS, ROWS = 10, 4
"""Held-out images in the picture; below each row of them stand the restored ones."""


def main(stage: Stage) -> None:
    from ddpm.encoding.pixels import PIXELS, write_no_latents
    from ddpm.files import write_json

    paths, params = stage.paths, stage.params
    for folder in (paths.latents, paths.pictures):
        shutil.rmtree(folder, ignore_errors=True)
    if params.codec == "pixels":
        write_no_latents(paths.latents)
        paths.pictures.mkdir(parents=True)
        write_json(paths.pictures / "codec.json", PIXELS)
        write_json(paths.report, PIXELS)
        return

    from ddpm import model_file
    from ddpm.data.reading.shard_index import read_index
    from ddpm.encoding.encode import write_latents
    from ddpm.encoding.standardise import spread_rows
    from ddpm.generation.grid import before_and_after
    from ddpm.generation.reconstruction import restored_images
    from ddpm.measuring.features.extractor_file import load_extractor
    from ddpm.measuring.reconstruction import measure_reconstruction

    autoencoder = model_file.load(paths.autoencoder, stage.device)
    assert autoencoder.codec is not None
    precision, batch = stage.precision(autoencoder.spec.size), params.runtime.sample_batch
    write_latents(
        paths.latents,
        autoencoder,
        stage.split("train").images,
        read_index(paths.prepared / "train"),
        precision=precision,
        batch=batch,
        progress=params.runtime.progress,
    )
    test = stage.split("test").images
    figures = measure_reconstruction(
        autoencoder.codec,
        stage.split("train").images,
        test,
        extractor=load_extractor(paths.extractor, stage.device),
        settings=params.evaluate,
        n=min(len(test), params.evaluate.held_out_images),
        seed=params.autoencoder.seed,
        device=stage.device,
        precision=precision,
        batch=batch,
        progress=params.runtime.progress,
    )
    write_json(paths.report, {"codec": "autoencoder"} | figures)
    paths.pictures.mkdir(parents=True)
    shown = test[spread_rows(len(test), COLUMNS * ROWS)]  # of all classes: images are in the order of their classes
    restored = restored_images(autoencoder, shown, precision=params.runtime.precision, batch=batch)
    before_and_after(shown, restored, columns=COLUMNS).save(paths.pictures / "reconstructions.png")
    print(_said(figures) + f"; {paths.pictures / 'reconstructions.png'} shows some")


def _said(figures: dict[str, Any]) -> str:
    """Return what the autoencoder loses, in one line. There is no FID of too few images."""
    said = f"held-out images after the autoencoder: PSNR {figures['psnr']:.1f} dB, SSIM {figures['ssim']:.2f}"
    decoded = figures["decoded"]
    if decoded["fid"] is None:
        return said
    fid, floor = (decoded[name]["value"] for name in ("fid", "floor"))
    return f"{said}; FID of training images after it: {fid:.3g}, without it: {floor:.3g}"


if __name__ == "__main__":
    execute(main, "prepared", "autoencoder", "extractor", "latents", "report", "pictures")
