"""The model over HTTP."""

import argparse

from ddpm.cli.model import load


def serve(args: argparse.Namespace) -> None:
    """The champion, a version or a file, within the bounds of the section `serve` of the params.yaml here."""
    from ddpm import config

    bounds = config.as_dict(config.load().serve)
    model, called = load(args)
    from ddpm.integrations import server
    from ddpm.integrations.answering import Bounds

    server.run(model, called, Bounds(**bounds), host=args.host, port=args.port)
