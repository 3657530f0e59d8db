"""The command that serves a model over HTTP."""

import argparse

from ddpm.cli.model import load


def serve(args: argparse.Namespace) -> None:
    """Serve the champion, a version or a model file within the limits of section `serve` of params.yaml."""
    from ddpm.params import load as load_params
    from ddpm.settings import as_dict

    bounds = as_dict(load_params().serve)
    model, name = load(args)
    from ddpm.serving import server
    from ddpm.serving.answering import Bounds

    server.run(model, name, Bounds(**bounds), host=args.host, port=args.port)
