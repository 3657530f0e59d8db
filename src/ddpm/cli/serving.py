"""The commands that serve a model: over HTTP for programs, and as a page for people."""

import argparse
import os
import signal
import sys
import webbrowser
from collections.abc import Callable

from ddpm.cli.model import find_version, load, load_version, registry_of
from ddpm.errors import UserError


def serve(args: argparse.Namespace) -> None:
    """Serve the champion, a version or a model file within the limits of section `serve` of params.yaml.

    Without --version or --model the server follows the champion.
    """
    _serve(args, ready=lambda address: None)


def page(args: argparse.Namespace) -> None:
    """Serve as `serve` does, and open the page in a browser if there is a screen."""
    _serve(args, ready=lambda address: None if args.no_browser or not _has_screen() else _open(address))


def _serve(args: argparse.Namespace, *, ready: Callable[[str], None]) -> None:
    from ddpm.params import load as load_params
    from ddpm.settings import as_dict

    params = load_params()
    if args.model and getattr(args, "shadow", None):
        raise UserError("--shadow compares registered versions, and --model names a file; leave one of them out")
    version = None if args.model else find_version(args)
    model, name = load(args) if version is None else (load_version(version, args.device), version.name)
    from ddpm.serving import server
    from ddpm.serving.calls import Bounds
    from ddpm.serving.served_models import ServedModels

    bounds = Bounds(**as_dict(params.serve))
    if version is None:
        models = ServedModels(model, args.model.name, bounds)
    else:
        from ddpm.cli.shadow import begun_shadow
        from ddpm.cli.watch import watch_of

        registry = registry_of(name)
        shadow = begun_shadow(args, registry, served=version.number, images=params.watch.images)
        models = ServedModels(
            model,
            name,
            bounds,
            version=version,
            registry=registry,
            load=lambda found: load_version(found, args.device, registry),
            follows=args.version is None,
            watch=watch_of(registry, params.watch, auto_rollback=params.promote.auto_rollback),
            shadow=shadow,
        )
    if models.shadow is not None:
        # uvicorn sends itself the signal again when it has ended, which would end this process before `keep` below.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        server.run(models, bounds, host=args.host, port=args.port, hosts=args.allowed_host, ready=ready)
    finally:
        if models.shadow is not None:
            models.shadow.keep()


def _has_screen() -> bool:
    """Whether a browser can open a window; otherwise Python might start one in the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(address: str) -> None:
    webbrowser.open(address)
