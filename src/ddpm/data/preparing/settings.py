"""Where the images come from and what they become: `data` in params.yaml."""

from typing import Literal

from ddpm.redaction import redacted
from ddpm.settings import require, require_at_least, require_named, require_positive, section


@section
class Data:
    """Where the images come from and what they become."""

    source: str
    """`digits`, `torchvision:NAME`, `folder` or `archive`."""
    path: str
    """The folder, the archive, or torchvision's root. Relative to the project; no shell reads it."""
    download: bool
    """torchvision only: fetch what is not at `path`."""
    size: int | None
    """Pixels of height and width; null takes what the data says."""
    channels: Literal[1, 3] | None
    """Grey or RGB; null takes what the data says."""
    fit: Literal["crop", "pad"]
    """How a non-square image becomes square."""
    test_fraction: float
    """Held out by a seeded draw where the source has no test split."""
    seed: int
    labels: bool
    """Class-conditional where the source has classes; false leaves them out, and folders then mean nothing."""
    max_pixels: int
    """A larger image is rejected, with that reason in the manifest."""
    max_picture_bytes: int
    """Memory that decoding one image may take, in every worker; one that would take more by its header is rejected."""
    white: int | None
    """The value of 16-bit grey that is white, 4095 where a camera of 12 bits wrote it; null takes 65535, and rejects an
    image that stays below 4096. A file that says how many bits it holds is believed."""
    archive_max_bytes: int
    """An archive that unpacks to more is refused."""
    archive_max_files: int
    store: str | None
    """Where the shards go: an fsspec URL such as s3://bucket/prefix; null keeps them beside their index."""
    shard_bytes: int
    """Largest size of one shard; a set that fits is one shard."""

    def __post_init__(self) -> None:
        known = self.source in ("digits", "folder", "archive") or (
            self.source.startswith("torchvision:") and len(self.source) > len("torchvision:")
        )
        require(
            known,
            f"source is {self.source!r}, expected digits, folder, archive or torchvision:NAME",
        )
        require(
            self.path != "" and "://" not in self.path and "\0" not in self.path,
            f"path is {self.path!r}, expected a folder or file of this machine (what has a URL is fetched before)",
        )
        require(
            self.size is None or 4 <= self.size <= 4096,
            f"size is {self.size}, expected 4 to 4096 pixels or null",
        )
        require(0 < self.test_fraction < 1, f"test_fraction is {self.test_fraction}, expected between 0 and 1")
        require_positive(
            self, "max_pixels", "max_picture_bytes", "archive_max_bytes", "archive_max_files", "shard_bytes"
        )
        require(
            self.white is None or 1 <= self.white <= 65535,
            f"white is {self.white}, expected a value from 1 to 65535 or null",
        )
        require_at_least(0, self, "seed")
        require_named(self, "store")
        require(
            self.store is None or redacted(self.store) == self.store,
            "store holds a credential, which params.yaml, dvc.lock and the shards' index would keep; leave it out "
            "and set what its kind of store reads of the environment (AWS_PROFILE, FSSPEC_FTP_PASSWORD, …)",
        )
