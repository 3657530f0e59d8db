"""Rules about metrics that nothing will measure with the other settings of params.yaml."""

from typing import Any, NamedTuple

from ddpm.promotion.settings import FIGURES
from ddpm.unread_settings import Reader, value_of, yaml


class _Need(NamedTuple):
    """What the settings must be for some metrics to be measured."""

    figures: frozenset[str]
    settings: tuple[Reader, ...]
    """Any of them."""
    remedy: str


_BITS = frozenset(name for name, metric in FIGURES.items() if metric.group == "likelihood")
_NEEDS = (
    _Need(
        frozenset({"fid_second", "kid_second"}),
        (Reader("features.second", (None,), but=True),),
        "set features.second to another extractor",
    ),
    _Need(_BITS, (Reader("method", ("gan",), but=True),), "set method to diffusion or vae"),
    _Need(frozenset({"bits_per_dim_ode"}), (Reader("method", ("diffusion",)),), "set method to diffusion"),
    _Need(
        _BITS,
        (Reader("evaluate.bits_per_dim", (0,), but=True),),
        "set evaluate.bits_per_dim to a number of held-out images",
    ),
    _Need(
        frozenset({"inception_score", "classes_covered"}),
        (Reader("features.extractor", ("auto", "classifier", "inception")),),
        "set features.extractor to auto, classifier or inception",
    ),
    _Need(
        frozenset({"inception_score", "classes_covered"}),
        (
            Reader("features.extractor", ("auto",), but=True),
            Reader("features.inception_weights", (None,), but=True),
            Reader("data.labels", (True,)),
        ),
        "set data.labels to true or features.inception_weights to a file",
    ),
)


def refused(params: Any) -> str | None:
    """Return one sentence about the first of `promote.rules` whose metric nothing will measure; None if there is none.

    `params` are all sections of params.yaml. What depends on the data is not known here, such as whether images without
    class folders were found.
    """
    for rule in params.promote.rules:
        for need in _NEEDS:
            if rule.figure in need.figures and not any(setting.chosen(params) for setting in need.settings):
                where = " and ".join(f"{key} is {yaml(value_of(params, key))}" for key, *_ in need.settings)
                return (
                    f"promote.rules has a rule for {rule.figure}, which nothing measures where {where}; "
                    f"{need.remedy}, or remove the rule"
                )
        if rule.figure in _BITS and rule.is_relative and params.evaluate.bits_per_dim == 1:
            return (
                f"promote.rules has a rule for {rule.figure} with {rule.requirement}, but evaluate.bits_per_dim is 1, "
                "and the gate compares at least 2 held-out images; set evaluate.bits_per_dim to 2 or more"
            )
    return None
