"""Settings that nothing reads beside what else is set: which are refused, which are warned of."""

import json
import math
from functools import reduce
from typing import Any, NamedTuple


class Reader(NamedTuple):
    """The setting that chooses who reads another one."""

    key: str
    values: tuple[Any, ...]
    but: bool = False
    """Any value but these."""

    def chosen(self, params: Any) -> bool:
        return (value_of(params, self.key) in self.values) != self.but


class Setting(NamedTuple):
    """A row of SETTINGS."""

    key: str
    untouched: Any
    """Where nothing reads the setting: the value that asks for nothing (REFUSED), or the one of the literature, by
    which nobody can have meant anything (WARNED)."""
    readers: tuple[Reader, ...]
    """Any of them does."""


_GUIDED = (Reader("sample.guidance", (1,), but=True),)
_NOISY = (Reader("method", ("diffusion",)),)
_EXPLODING = (Reader("schedule.name", ("variance_exploding",)),)

REFUSED = (
    Setting(
        "features.inception_weights",
        None,
        (Reader("features.extractor", ("auto", "inception")), Reader("features.second", ("inception",))),
    ),
    *(
        Setting(
            f"features.{kind}_weights",
            None,
            (Reader("features.extractor", (kind,)), Reader("features.second", (kind,))),
        )
        for kind in ("dinov2", "clip")
    ),
    Setting("sample.guide", None, _GUIDED),
    Setting("sample.guidance", 1, _NOISY),
    Setting("sample.threshold", None, _NOISY),
    Setting("train.time_sampling", "uniform", _NOISY),
    Setting("train.augment.probability", 0, _NOISY),
    Setting("train.start", None, _NOISY),
    Setting("evaluate.bits_per_dim", 0, (Reader("method", ("diffusion", "vae")),)),
    Setting("sample.guidance_interval", (0, None), _GUIDED),
    Setting("sample.guidance_rescale", 0, _GUIDED),
    Setting("text.examples", (), (Reader("condition", ("text",)),)),
    Setting("sample.base", None, (Reader("condition", ("image",)),)),
    Setting("sample.picture_noise", 0, (Reader("condition", ("image",)),)),
    Setting("promote.auto_rollback", False, (Reader("watch.share", (0,), but=True),)),
)
"""They switch something on, so who sets one and gets nothing was misunderstood."""

WARNED = (
    Setting("schedule.T", 1000, (Reader("schedule.name", ("variance_exploding",), but=True),)),
    Setting("schedule.sigma_min", 0.002, _EXPLODING),
    Setting("schedule.sigma_max", 80, _EXPLODING),
    Setting("objective.min_snr_gamma", 5, (Reader("objective.weight", ("min_snr",)),)),
    Setting("objective.p2_gamma", 1, (Reader("objective.weight", ("p2",)),)),
    Setting("objective.sigma_data", 0.5, (Reader("objective.target", ("edm",)), Reader("objective.weight", ("edm",)))),
    Setting("objective.vlb_weight", 0.001, (Reader("objective.learned_variance", (True,)),)),
    Setting("train.log_normal", (-1.2, 1.2), (Reader("train.time_sampling", ("log_normal",)),)),
    Setting("runtime.workers", 0, (Reader("runtime.cluster", (None,)),)),
)
"""They say how much of something that another setting switches on; they may wait for it."""


def refused(params: Any) -> str | None:
    """One sentence about the first setting of REFUSED that nothing reads; None where there is none."""
    return next(_unread(params, REFUSED), None)


def warned(params: Any) -> list[str]:
    """A sentence for every setting that nothing reads, among them attention where `data.size` is known.

    Of the sections that the method does not read there is none, because `noted` names them.
    """
    size = params.data.size
    if params.method != "diffusion":
        return []
    return [*_unread(params, WARNED), *(attention(params, size) if size is not None else [])]


def noted(params: Any) -> str | None:
    """A sentence that names what the method does not read; None for diffusion, which reads nearly everything."""
    if params.method == "diffusion":
        return None
    other = "gan" if params.method == "vae" else "vae"
    return (
        f"method is {params.method}, which reads section {params.method}, neither schedule, objective, network nor "
        f"{other}, and of section sample only images, grid and seed, because it draws in one evaluation"
    )


def warned_of_size(params: Any, size: int) -> list[str]:
    """What `warned` could not say, where the data and not `data.size` say how large images are."""
    return attention(params, size) if params.data.size is None and params.method == "diffusion" else []


def attention(params: Any, size: int) -> list[str]:
    """A sentence, or none, about `network.attention` of which images of `size` pixels have no resolution.

    With codec autoencoder the resolutions are those of latents.
    """
    network, of = params.network, "images"
    if params.codec == "autoencoder":
        size, of = size // 2 ** (len(params.autoencoder.multipliers) - 1), "latents"
    levels = len(network.multipliers)
    factor = network.patch * 2 ** (levels - 1)
    positions = [math.ceil(size / factor) * factor // network.patch >> level for level in range(levels)]
    if not network.attention or not set(network.attention).isdisjoint(positions):
        return []
    return [
        f"network.attention has {yaml(network.attention)}, but {of} of {size} pixels have {yaml(positions)} "
        f"positions at the resolutions of the network; choose from these, or []"
    ]


def value_of(params: Any, key: str) -> Any:
    """Return the value of `section.name`, or of a key outside of the sections."""
    return reduce(getattr, key.split("."), params)


def _unread(params: Any, settings: tuple[Setting, ...]) -> Any:
    for setting in settings:
        value = value_of(params, setting.key)
        if value == setting.untouched or any(reader.chosen(params) for reader in setting.readers):
            continue
        where = " and ".join(f"{reader.key} is {yaml(value_of(params, reader.key))}" for reader in setting.readers)
        remedy = " or ".join(f"{reader.key} to {_wanted(reader)}" for reader in setting.readers)
        yield (
            f"{setting.key} is {yaml(value)}, which nothing reads where {where}; "
            f"set {setting.key} to {yaml(setting.untouched)} or {remedy}"
        )


def _wanted(reader: Reader) -> str:
    if reader.but:
        return "another value"
    return " or ".join(yaml(value) for value in reader.values)


def yaml(value: Any) -> str:
    """As params.yaml has it."""
    return value if isinstance(value, str) else json.dumps(value)
