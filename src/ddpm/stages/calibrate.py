"""DVC stage `calibrate`: damage real images in steps, and mark the metrics that do not notice as unfit for the gate."""

from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    from ddpm.calibrating.reactions import react
    from ddpm.calibrating.reactions_picture import draw
    from ddpm.files import write_json
    from ddpm.measuring.features.extractor_file import load_extractor

    paths, train = stage.paths, stage.split("train")
    found = react(
        train.images,
        train.labels,
        stage.split("test").images,
        extractor=load_extractor(paths.extractor, stage.device),
        settings=stage.params.evaluate,
        device=stage.device,
        progress=stage.params.runtime.progress,
    )
    write_json(paths.reactions, found.to_json())
    draw(paths.picture, found)
    for why in found.unfit.values():
        print(f"warning: {why}")
    print(f"{paths.picture} shows what every metric makes of damaged images; {len(found.unfit)} metrics are unfit")


if __name__ == "__main__":
    execute(main, "prepared", "extractor", "reactions", "picture")
