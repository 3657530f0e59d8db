"""DVC stage `features`: train or record the feature extractor that FID, KID, precision and recall use."""

from pathlib import Path

from ddpm.compute.processes import leads
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    from ddpm.data.reading.dataset import read_facts
    from ddpm.files import write_json
    from ddpm.measuring.features import extractor, extractor_training

    facts, settings, path = read_facts(stage.paths.prepared), stage.params.features, stage.paths.extractor
    kind = extractor_training.choose_kind(settings, classes=len(facts.classes))
    dim = extractor.INCEPTION_DIM if kind == "inception" else settings.dim
    extractor.require_enough_images(dim, {"training": facts.train, "held-out": facts.test})
    trained = None
    if kind != "inception":
        device, train = stage.device, stage.split("train")
        trained = extractor_training.train_extractor(
            train,
            stage.split("test"),
            kind=kind,
            classes=len(facts.classes),
            settings=settings,
            device=device,
            progress=stage.params.runtime.progress,
            together=True,
        )
    if leads():
        report: dict[str, str | float | None]
        if trained is None:
            extractor.record_inception(path, Path(str(settings.inception_weights)))
            report = {"kind": kind, "accuracy": None, "dim": dim, "sha256": extractor.INCEPTION_SHA256}
        else:
            trained.save(path)
            report = {"kind": kind, "accuracy": trained.accuracy, "dim": trained.dim, "sha256": trained.sha256}
            report["standardised_images"] = len(extractor_training.rows_described(train.images, settings))
        write_json(stage.paths.report, report)
        write_json(stage.paths.made, {"extractor": "made"})


if __name__ == "__main__":
    execute(main, "prepared", "extractor", "report", "made", in_workers=True)
