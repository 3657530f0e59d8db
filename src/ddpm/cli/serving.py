"""The model over HTTP."""

import argparse

from ddpm.cli.model import load


def serve(args: argparse.Namespace) -> None:
    """The champion, a version or a file, within the bounds of the section `serve` of the params.yaml here."""
    from ddpm.params import load as load_params
    from ddpm.settings import as_dict

    bounds = as_dict(load_params().serve)
    model, called = load(args)
    from ddpm.serving import server
    from ddpm.serving.answering import Bounds

    server.run(model, called, Bounds(**bounds), host=args.host, port=args.port)
