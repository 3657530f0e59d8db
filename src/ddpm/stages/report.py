"""DVC stage `report`: write the page about this run, and log it to the MLflow run of the training."""

from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    from ddpm import last_run
    from ddpm.files import write_json, write_text
    from ddpm.reporting.report_page import report_page
    from ddpm.tracking import recorded_run
    from ddpm.tracking.run_json import attach

    paths = stage.paths
    found = last_run.read(paths, stage.params.promote)
    write_text(paths.page, report_page(found))
    tracker = attach(paths.run, stage.measuring())
    training = {paths.docs: "data_docs", paths.validation: "data", paths.curves: "training"}
    recorded_run.complete(tracker, found.curves, training)
    tracker.artifact(paths.page)
    for path in (paths.reactions, paths.damaged):
        tracker.artifact(path, "evaluation")
    if found.reconstructions is not None:
        for path in (paths.autoencoder, paths.reconstructions / "reconstructions.png"):
            tracker.artifact(path, "autoencoder")
    tracker.finish()
    write_json(paths.receipt, {"page": str(paths.page), "content_hash": found.facts["content_hash"]})
    print(f"{paths.page} says what this run made and what was decided")


if __name__ == "__main__":
    from ddpm.last_run import FILES

    execute(main, *FILES, "page", "receipt")
