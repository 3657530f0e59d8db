"""How an extractor makes features of an image, as a protocol has it."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Description:
    """Metrics are comparable only if the descriptions of their extractors are equal."""

    name: str
    layer: str
    """Layer or layers whose outputs are used: the features and, if there are any, the logits."""
    resizing: str
    """How an image becomes the network's input."""
    dtype: str
    """Number format of the computation."""
    sha256: str
    """sha256 of the file of weights."""

    def to_json(self) -> dict[str, str]:
        return asdict(self)
