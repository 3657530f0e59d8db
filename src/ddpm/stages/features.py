"""DVC stage `features`: make the one or two extractors of features that FID, KID, precision and recall use.

It trains small networks on the data, and verifies published weights.
"""

from pathlib import Path
from typing import Any, get_args

from ddpm.compute.processes import leads
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    from ddpm.data.reading.dataset import read_facts
    from ddpm.files import write_json
    from ddpm.measuring.features import extractor_file
    from ddpm.measuring.features.extractor import Extractor, FeatureExtractor, few_for_fid, require_enough_images
    from ddpm.measuring.features.extractor_training import choose_kinds, rows_described, train_extractor
    from ddpm.measuring.features.pretrained import load_pretrained
    from ddpm.measuring.features.settings import Pretrained

    facts, settings, paths = read_facts(stage.paths.prepared), stage.params.features, stage.paths
    kinds = choose_kinds(settings, classes=len(facts.classes))
    # Published weights first: they are read in seconds, and may be wrong.
    loaded = {
        kind: load_pretrained(kind, Path(settings.weights(kind))) for kind in kinds if kind in get_args(Pretrained)
    }
    dims = [loaded[kind].dim if kind in loaded else settings.dim for kind in kinds]
    counts = {"training": facts.train, "held-out": facts.test}
    require_enough_images(dims[0], counts)
    if leads() and dims[1:] and (few := few_for_fid(dims[1], counts)):
        print(f"warning: there will be kid_second, but no fid_second: {few}")

    def trained(kind: Any) -> Extractor:
        device = stage.device
        return train_extractor(
            stage.split("train"),
            stage.split("test"),
            kind=kind,
            classes=len(facts.classes),
            settings=settings,
            device=device,
            progress=stage.params.runtime.progress,
            together=True,
        )

    def report(kind: str, extractor: FeatureExtractor) -> dict[str, str | float | None]:
        found: dict[str, str | float | None]
        found = {"kind": kind, "accuracy": None, "dim": extractor.dim, "sha256": extractor.description.sha256}
        if isinstance(extractor, Extractor):
            found["accuracy"] = extractor.accuracy
            found["standardised_images"] = len(rows_described(stage.split("train").images, settings))
        return found

    made: list[FeatureExtractor] = [loaded.get(kind) or trained(kind) for kind in kinds]
    if leads():
        reports = [report(*each) for each in zip(kinds, made, strict=True)]
        extractor_file.save(made[0], paths.extractor)
        extractor_file.save(made[1] if made[1:] else None, paths.second)
        write_json(paths.report, reports[0] | ({"second": reports[1]} if reports[1:] else {}))
        write_json(paths.made, {"extractor": "made"})


if __name__ == "__main__":
    execute(main, "prepared", "extractor", "second", "report", "made", in_workers=True)
