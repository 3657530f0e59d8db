"""The shadow of `ddpm serve`: the version that draws again what the served one answers, and what became of both."""

import argparse
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ddpm.cli.model import load_version, registered_name, registry_of
from ddpm.errors import UserError

if TYPE_CHECKING:
    from ddpm.canary.kept import Kept
    from ddpm.serving.shadow import Shadow
    from ddpm.tracking.mlflow_registry import MlflowRegistry

_SHOWN = {
    "requests": "requests",
    "errors": "errors",
    "seconds_of_one_image": "seconds of an image (median)",
    "distance": "Fréchet distance from its own measured images",
    "distance_by_chance": "that of as many measured images, at most",
}


def begun_shadow(args: argparse.Namespace, registry: "MlflowRegistry", *, served: str, images: int) -> "Shadow | None":
    """Return the shadow of --shadow, loaded; None without that option. Its distances are of the last `images` images.

    Raise UserError if there is no such version, if it is the served one, or if it cannot be loaded.
    """
    number = getattr(args, "shadow", None)
    if number is None:
        return None
    from ddpm.cli.watch import kept_with
    from ddpm.promotion.registry import version
    from ddpm.serving.shadow import Shadow

    if number == served:
        raise UserError(f"version {number} is the served one and cannot be its own shadow; name another version")
    found = version(registry, number)

    def kept_of(number: str) -> "Kept | None":
        try:
            return kept_with(registry, number)
        except Exception as error:  # also of a registry that does not answer
            logging.getLogger(__name__).warning("no distance of version %s is measured: %s", number, error)
            return None

    return Shadow(
        load_version(found, args.device, registry),
        number,
        images=images,
        kept_of=kept_of,
        keep=lambda figures: registry.keep_shadow(number, figures),
    )


def shadow(args: argparse.Namespace) -> None:
    """Print the last figures of a shadow and of the version that was served, side by side."""
    from ddpm.cli.registry import print_table
    from ddpm.promotion.registry import SHADOW
    from ddpm.reporting.markdown import Table

    registry = registry_of(registered_name(args))
    known = [found for found in registry.versions() if SHADOW in found.tags and args.number in (None, found.number)]
    if not known:
        which = "no version that was a shadow yet" if args.number is None else f"no figures of a shadow {args.number}"
        raise UserError(f"{registry.name} has {which}; begin with `ddpm serve --shadow NUMBER`")
    figures = known[0].shadow()
    both = figures["served"], figures["shadow"]
    header = ["", f"version {both[0]['version']}, served", f"version {both[1]['version']}, shadow"]
    print_table(Table(header, [[title, *(_cell(own, name) for own in both)] for name, title in _SHOWN.items()]))
    print(f"\n{figures['dropped']} requests were not drawn again, because the server was not idle enough")


def _cell(figures: Mapping[str, Any], name: str) -> str:
    value = figures[name]
    return "-" if value is None else f"{value:.4g}"
