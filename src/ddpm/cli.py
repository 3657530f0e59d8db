"""`ddpm`: images for whoever uses the model, and the registry for whoever runs it."""

import argparse
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.integrations.registry import Version

FIGURES = (
    ("fid", "FID", "lower is better"),
    ("kid", "KID", "lower is better"),
    ("isc", "IS", "higher is better"),
    ("precision", "precision", "higher is better"),
    ("recall", "recall", "higher is better"),
    ("memorized_share", "memorized", "share of near copies of training images"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 with one sentence for an error the user can mend (2: arguments that do not parse)."""
    args = parser().parse_args(arguments)
    try:
        args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def sample(args: argparse.Namespace) -> None:
    """Images from the champion, a version or a file, as one picture or as a folder of them."""
    grid = args.out.suffix.lower() == ".png"
    if not grid and args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UserError(f"{args.out} is there and not an empty folder; name a new folder, or a .png for one picture")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file, called = (args.model, str(args.model)) if args.model else _registered_file(args, Path(folder))

        from ddpm import model_file
        from ddpm.evaluation import pictures
        from ddpm.integrations import request as asked
        from ddpm.runtime import choose_device

        model = model_file.load(file, choose_device(args.device))
    names = ("number", "label", "seed", "sampler", "steps", "eta", "guidance")
    fields = {name: getattr(args, name) for name in names}
    if isinstance(args.label, str) and args.label not in model.spec["classes"] and args.label.isdecimal():
        fields["label"] = int(args.label)
    request = asked.complete(fields, model, max_number=sys.maxsize)
    images = asked.draw(model, request, progress=sys.stderr.isatty())

    if grid:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        pictures.grid(images, columns=max(1, round(request.number**0.5))).save(args.out)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        for k, image in enumerate(images):
            asked.as_picture(image).save(args.out / f"{k:06d}.png")
    settings = asked.described(request, model)
    del settings["labels"]
    said = ", ".join(f"{key} {value}" for key, value in settings.items())
    print(f"{request.number} images of {called} in {args.out} ({said})")


def _registered_file(args: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    from ddpm.integrations import registry

    name = _name(args)
    if args.version:
        found = registry.version(name, args.version)
    else:
        champion = registry.champion(name)
        if champion is None:
            raise UserError(
                f"{name} has no champion; make one with `ddpm promote VERSION`, or name a file with --model"
            )
        found = champion
    return registry.download(found, folder), f"{name} version {found.number}"


def versions(args: argparse.Namespace) -> None:
    """Every version, newest first."""
    from ddpm.integrations import registry

    found = registry.versions(_name(args))
    if not found:
        raise UserError(f"nothing is registered as {_name(args)}; `dvc repro` trains and registers a model")
    head = ("version", "aliases", "fid", "kid", "floor fid", "decision", "when", "run")
    rows = [
        (
            v.number,
            ", ".join(v.aliases),
            *(v.tags.get(key, "") for key in ("fid", "kid", "floor.fid", "decision")),
            f"{v.created.astimezone():%Y-%m-%d %H:%M}",
            v.run_id or "",
        )
        for v in found
    ]
    widths = [max(len(str(row[column])) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def promote(args: argparse.Namespace) -> None:
    """A person's yes."""
    from ddpm.integrations import registry

    move = registry.promote(_name(args), args.number, reason=args.reason)
    before = f", in the place of version {move.previous}" if move.previous else ""
    print(f"version {move.version} of {_name(args)} is the champion{before}")


def rollback(args: argparse.Namespace) -> None:
    """Back to the champion before this one."""
    from ddpm.integrations import registry

    move = registry.rollback(_name(args), reason=args.reason)
    print(
        f"version {move.version} of {_name(args)} is the champion again, version {move.previous} is not; "
        f"`ddpm promote {move.previous} --reason …` undoes it"
    )


def report(args: argparse.Namespace) -> None:
    """What a run of the pipeline made, and where to look at it."""
    import json

    from ddpm.integrations import mlflow_store, registry

    try:
        record = json.loads(args.metrics.read_text())
    except FileNotFoundError:
        raise UserError(f"{args.metrics} was not found; `dvc repro` makes it") from None
    print(f"{'':12}{'model':>10}{'floor':>10}   floor: real images, measured the same way")
    for key, title, meaning in FIGURES:
        print(f"{title:12}{_figure(record.get(key)):>10}{_figure(record['floor'].get(key)):>10}   {meaning}")
    print()

    made = mlflow_store.read_run(args.run_json)
    known = registry.versions(_name(args))
    found = next((v for v in known if v.tags.get("model_sha256") == made["model_sha256"]), None)
    champion = next((v for v in known if registry.CHAMPION in v.aliases), None)
    _say("model", _standing(found, champion))
    if found is not None:
        _say("because", found.tags.get("reasons", ""))
    _say("images", " and ".join(str(path) for path in (args.grid, args.animation) if path.exists()))
    _say("MLflow", _mlflow_command(), whole=True)
    _say("Prefect", f"PREFECT_SERVER_ANALYTICS_ENABLED=false {_program('prefect')} server start", whole=True)
    _say("", "then open http://127.0.0.1:4200")


def _standing(found: "Version | None", champion: "Version | None") -> str:
    if found is None:
        return "is not registered; `dvc repro -f -s register` does it"
    decision = found.tags.get("decision", "not judged yet")
    said = f"{found.name} version {found.number}: {decision}"
    if champion is None:
        return f"{said}; there is no champion"
    if champion.number == found.number:
        return f"{said}; it is the champion"
    return f"{said}; champion is version {champion.number} (FID {champion.tags.get('fid', 'unknown')})"


def _mlflow_command() -> str:
    from ddpm.integrations import mlflow_store

    uri = mlflow_store.tracking_uri()
    if uri.startswith(("http://", "https://")):
        return f"open {mlflow_store.shown_uri()}"
    return (
        f"MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false {_program('mlflow')} server "
        f"--workers 1 --backend-store-uri {shlex.quote(uri)}\nthen open http://127.0.0.1:5000"
    )


def _program(name: str) -> str:
    """As it is called from here, whether or not the environment is active."""
    path = Path(sys.executable).parent / name
    try:
        return shlex.quote(str(path.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(path))


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def _say(title: str, text: str, *, whole: bool = False) -> None:
    lines = text.splitlines() if whole else textwrap.wrap(text, width=96)
    for k, line in enumerate(lines):
        print(f"{title if k == 0 else '':12}{line}")


def _name(args: argparse.Namespace) -> str:
    """The registered model: --name, or promote.name of the params.yaml here, or ddpm."""
    if args.name:
        return args.name
    if os.path.exists("params.yaml"):
        from ddpm import config

        return config.load().promote.name
    return "ddpm"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="ddpm", description=__doc__)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(run: Any, summary: str, example: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            run.__name__,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
        )
        made.set_defaults(run=run)
        return made

    def named(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("--name", help="registered model (default: promote.name in params.yaml)")
        return made

    make = named(
        command(
            sample,
            "generate images with the champion, a version or a model file",
            "ddpm sample --number 16 --label 3 --seed 1 --out threes.png",
        )
    )
    source = make.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, metavar="FILE", help="a .safetensors file; needs no registry")
    source.add_argument("--version", help="of the registered model (default: its champion)")
    make.add_argument("--out", type=Path, required=True, help="a .png for one picture, or a new folder")
    make.add_argument("-n", "--number", type=int, default=16, help="images (default: 16)")
    make.add_argument("--label", help="class, by name or index (default: all in turn)")
    make.add_argument("--seed", type=int, help="the same seed gives the same images (default: a fresh one)")
    make.add_argument("--steps", type=int, help="network evaluations per image (default: the model's)")
    make.add_argument("--guidance", type=float, help="1: the model itself; above: sharper, less varied")
    make.add_argument("--sampler", choices=("ddim", "ddpm"))
    make.add_argument("--eta", type=float, help="ddim only: 0 deterministic, 1 as random as ddpm")
    make.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")

    named(command(versions, "list the registered versions, newest first", "ddpm versions"))

    yes = named(command(promote, "make a version champion", 'ddpm promote 4 --reason "looked at the samples, sharper"'))
    yes.add_argument("number", metavar="VERSION")
    yes.add_argument("--reason", required=True, help="kept with the promotion")

    back = named(
        command(
            rollback,
            "make the previous champion champion again",
            'ddpm rollback --reason "blurred eights in production"',
        )
    )
    back.add_argument("--reason", default="no reason given", help="kept with the move")

    shown = named(command(report, "show what the last run of the pipeline made", "ddpm report"))
    shown.add_argument("--metrics", type=Path, default=Path("reports/metrics.json"))
    shown.add_argument("--run", dest="run_json", type=Path, default=Path("models/run.json"))
    shown.add_argument("--grid", type=Path, default=Path("reports/samples.png"))
    shown.add_argument("--animation", type=Path, default=Path("reports/reverse_process.gif"))
    return top


if __name__ == "__main__":
    sys.exit(main())
