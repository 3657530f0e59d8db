"""DVC stage `prepare`: convert the images of a source into shards, a manifest and the facts of the data."""

from pathlib import Path

from ddpm import few_images, unread_settings
from ddpm.data.manifest import rejected_files
from ddpm.data.preparing.prepare import prepare
from ddpm.data.previews import REJECTED_LIST
from ddpm.errors import on_one_line
from ddpm.planning.size_choice import Settings, size_chooser
from ddpm.recipe_advice import advice
from ddpm.stages.stage import Stage, execute

_NAMED = 5
"""Rejected files that are printed by name."""


def main(stage: Stage) -> None:
    params, settings, runtime = stage.params, stage.params.data, stage.params.runtime
    trained = Settings(
        method=params.method,
        schedule=params.schedule,
        objective=params.objective,
        network=params.network,
        vae=params.vae,
        gan=params.gan,
        condition=params.condition,
        text=params.text,
        train=params.train,
        runtime=runtime,
    )
    facts = prepare(
        settings,
        raw=Path(settings.path),
        prepared=stage.paths.prepared,
        state=stage.paths.state,
        workers=runtime.workers,
        cluster=runtime.cluster,
        progress=runtime.progress,
        choose_size=size_chooser(trained, record=stage.paths.state / "chosen_size.json"),
    )
    rejected = "".join(f", rejected {n}: {reason}" for reason, n in facts.rejected.items())
    print(
        f"{facts.name}: found {facts.found}, kept {facts.kept} ({facts.train} train, {facts.test} test){rejected}; "
        f"{facts.size}x{facts.size}, {facts.channels} channel(s), {len(facts.classes)} classes"
        + ("" if facts.captions is None else f"; {facts.captions:,} of {facts.kept:,} images have a caption")
    )
    if facts.ignored:
        named = ", ".join(f"{n} {name}" for name, n in facts.ignored.items())
        print(f"ignored {sum(facts.ignored.values())} files that are not images by their names: {named}")
    for line in _rejected(stage.paths.prepared, n=sum(facts.rejected.values())):
        print(line)
    if settings.size is None and facts.own_size is None:
        print(
            f"data.size is null, so the images get a size that fits them: {facts.size} pixels. It is the shorter side "
            "of at least half of them. If that would enlarge more than one image in twenty, it is the largest multiple "
            "of 8 that does not. Set data.size for another size"
        )
    for sentence in unread_settings.warned_of_size(params, facts.size):
        print(f"warning: {sentence}")
    if too_few := few_images.warning(params, train=facts.train, test=facts.test):
        print(f"warning: {too_few}")
    if recommended := advice(Path("params.yaml"), channels=facts.channels, size=facts.size, images=facts.kept):
        print(recommended)


def _rejected(prepared: Path, *, n: int) -> list[str]:
    """Return a line for each of the first rejected files, and one that says where the list of all is."""
    if n == 0:
        return []
    first = rejected_files(prepared, most=_NAMED)
    lines = [f"rejected {on_one_line(path)}: {reason}" for path, reason in first]
    more = f"and {n - _NAMED} more; " if n > _NAMED else ""
    return [*lines, f"{more}all rejected files and the reasons: {prepared / REJECTED_LIST}"]


if __name__ == "__main__":
    execute(main, "prepared", "state")
