"""DVC stage `evaluate`: measure the generated images and the model; write the metrics with their protocol."""

from dataclasses import asdict, replace

from ddpm.compute.processes import leads
from ddpm.settings import as_dict
from ddpm.stages.stage import Stage, execute


def main(stage: Stage) -> None:
    import numpy as np

    from ddpm import model_file
    from ddpm.files import write_json
    from ddpm.generation.image_set import read_sampling
    from ddpm.generation.reconstruction import restored_images
    from ddpm.measuring import augmentation, bits_per_dim, fidelity
    from ddpm.measuring.features.extractor_file import load_extractor, load_second
    from ddpm.measuring.neighbours_picture import draw_neighbours
    from ddpm.reporting.markdown import table
    from ddpm.reporting.measurements import metrics_table
    from ddpm.text.conditions import of_held_out
    from ddpm.tracking.run_description import describe
    from ddpm.tracking.run_json import attach

    paths, settings, runtime = stage.paths, stage.params.evaluate, stage.params.runtime
    device, train, held_out = stage.device, stage.split("train"), stage.split("test")
    generated = np.load(paths.images / "images.npy", mmap_mode="r")
    of_generated = paths.images / "labels.npy"
    labels = (np.load(of_generated) if of_generated.is_file() else None, train.labels, held_out.labels)
    sets = (generated, train.images, held_out.images)
    sampling = read_sampling(paths.images, n=len(generated))
    extractor = load_extractor(paths.extractor, device)
    compared = fidelity.compare_sets(
        *sets,
        labels=labels,
        extractor=extractor,
        second=load_second(paths.second, device),
        settings=settings,
        seed=sampling.seed,
        device=device,
        progress=runtime.progress,
        together=True,
    )
    if not leads():
        return
    record = fidelity.record_of(
        compared, extractor=extractor, settings=settings, drawing=as_dict(sampling.recipe), seed=sampling.seed
    )
    model = model_file.load(paths.model, device)
    if model.spec.draws_latents:
        reconstructed = fidelity.reconstructed_metrics(
            lambda images: restored_images(model, images, precision=runtime.precision, batch=runtime.sample_batch),
            train.images,
            compared,
            extractor=extractor,
            settings=settings,
            seed=sampling.seed,
            device=device,
            progress=runtime.progress,
        )
        record = replace(record, reconstructed=reconstructed)
    draw_neighbours(
        paths.neighbours,
        generated=generated,
        held_out=compared.held_out,
        train=train.images,
        copies=compared.copies,
    )
    metrics, numbers = record.to_json(), record.numbers()
    if settings.augmentation:
        accuracies = augmentation.compare(
            train,
            augmentation.read_generated(paths.images),
            held_out,
            settings=stage.params.features,
            device=device,
            progress=runtime.progress,
        )
        metrics["augmentation"], numbers = asdict(accuracies), numbers | accuracies.numbers()
    write_json(paths.metrics, metrics)
    likelihood = bits_per_dim.NOT_MEASURED
    if settings.bits_per_dim:
        likelihood = bits_per_dim.measure(
            model,
            held_out.images,
            of_held_out(model.spec, held_out.labels, held_out.captions, held_out.images),
            n=settings.bits_per_dim,
            batch=runtime.sample_batch,
            progress=runtime.progress,
        )
    likelihood.write(paths.likelihood, terms=paths.terms)

    tracker = attach(paths.run, stage.measuring())
    tracker.log(numbers | likelihood.numbers(), images_seen=0)  # metrics of the finished model, not a curve
    for path in (paths.metrics, paths.neighbours, paths.likelihood, paths.terms):
        tracker.artifact(path, "evaluation")
    describe(tracker, Metrics=table(metrics_table(metrics)))
    tracker.finish()


if __name__ == "__main__":
    options = ("prepared", "images", "extractor", "second", "model", "run", "metrics", "neighbours")
    execute(main, *options, "likelihood", "terms", in_workers=True)
