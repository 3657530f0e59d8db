"""The arguments of the commands about the project's folder: its settings, its data, its last run."""

from pathlib import Path

from ddpm.cli import doctor, drift, explain, operate, plan, spread
from ddpm.cli.arguments import Commands, add_name, positive


def add_commands(commands: Commands) -> None:
    """Add the commands from configure to report."""
    configure = commands.add(
        operate.configure, "write the values of a recipe into params.yaml", "ddpm configure recipes/grey-32.yaml"
    )
    configure.add_argument(
        "recipe",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="a YAML file with the values to change, or the name of one in recipes/; without one, these are listed",
    )
    configure.add_argument(
        "--fit", action="store_true", help="lower the limits that the prepared images are too few for, instead"
    )

    explained = commands.add(
        explain.explain, "say what a key of params.yaml means and its possible values", "ddpm explain train.lr"
    )
    explained.add_argument(
        "key", nargs="?", metavar="KEY", help="a key or a section of params.yaml (default: a list of all keys)"
    )

    commands.add(operate.look, "check that the files at data.path can be read", "ddpm look")

    mended = commands.add(doctor.doctor, "list what killed processes left, and mend it", "ddpm doctor --mend")
    mended.add_argument("--mend", action="store_true", help="close and remove what no process works on any more")

    drifted = commands.add(
        drift.drift, "say whether the pictures of a folder differ from the data", "ddpm drift incoming"
    )
    drifted.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of pictures, or of folders of classes")
    drifted.add_argument(
        "--out",
        type=Path,
        default=Path("reports/drift.png"),
        metavar="FILE",
        help="the picture (default: reports/drift.png)",
    )
    drifted.add_argument("--record", type=Path, metavar="FILE", help="write the figures to this JSON file, too")

    planned = commands.add(plan.plan, "measure how long the training takes and what it needs", "ddpm plan")
    for option, default, content in (
        ("--prepared", "data/prepared", "the prepared images"),
        ("--state", ".state/train", "the state of trainings that were interrupted"),
    ):
        planned.add_argument(
            option, type=Path, default=Path(default), metavar="FOLDER", help=f"{content} (default: {default})"
        )

    again = commands.add(spread.spread, "measure how far trainings with other seeds differ", "ddpm spread --seeds 3")
    again.add_argument("--seeds", type=positive, default=3, help="number of trainings, at least 2 (default: 3)")

    report = add_name(commands.add(operate.report, "show the results of the last run of the pipeline", "ddpm report"))
    for option, dest, default, content in (
        ("--metrics", "metrics", "reports/metrics.json", "the metrics"),
        ("--run", "run_json", "models/run.json", "the MLflow run of the training"),
        ("--grid", "grid", "reports/samples.png", "the grid of samples"),
        ("--animation", "animation", "reports/reverse_process.gif", "the animation of the reverse process"),
    ):
        report.add_argument(
            option, dest=dest, type=Path, default=Path(default), metavar="FILE", help=f"{content} (default: {default})"
        )
