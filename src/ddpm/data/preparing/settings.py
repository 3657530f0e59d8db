"""Where the images come from and what they become: `data` in params.yaml."""

from typing import Literal

from ddpm.redaction import redacted
from ddpm.settings import require, require_at_least, require_named, require_positive, section


@section
class Data:
    """Where the images come from and what they become."""

    source: str
    """`digits`, `digit_pairs` (two of these digits beside each other, with captions), `torchvision:NAME`, `folder` or
    `archive`."""
    path: str
    """The folder, the archive, or torchvision's root. Relative to the project; no shell reads it."""
    download: bool
    """torchvision only: download what is not at `path`."""
    size: int | None
    """Height and width in pixels; null chooses it by the images, and above 32 pixels by what this machine can train."""
    channels: int | None
    """1: grey, 3: RGB; null chooses it by the images."""
    fit: Literal["crop", "pad"]
    """How a non-square image becomes square."""
    test_fraction: float
    """Share of images held out by a seeded draw if the source has no test split."""
    seed: int
    """Decides which images are held out if the source has no test split."""
    labels: bool
    """Use the source's classes as labels if it has any; false ignores them, and class folders have no meaning."""
    captions: bool
    """Read the captions of a folder or an archive: metadata.jsonl or metadata.csv with file_name and text, as Hugging
    Face's `imagefolder` has them, or NAME.txt beside NAME.png."""
    max_pixels: int
    """An image with more pixels is rejected, and the manifest says so."""
    max_picture_bytes: int
    """Memory in bytes that decoding one image may take in a worker; an image whose header implies more is rejected."""
    white: int | None
    """The value of 16-bit grey that is white, for instance 4095 for a 12-bit camera; null: 65535, and an image whose
    values are all below 4096 is rejected. A number of bits stored in the file takes precedence."""
    archive_max_bytes: int
    """An archive that unpacks to more bytes is refused."""
    archive_max_files: int
    """An archive with more files is refused."""
    store: str | None
    """Where shards are stored: an fsspec URL such as s3://bucket/prefix; null keeps them beside their index."""
    shard_bytes: int
    """Largest size of one shard; a smaller data set is one shard."""

    def __post_init__(self) -> None:
        known = self.source in ("digits", "digit_pairs", "folder", "archive") or (
            self.source.startswith("torchvision:") and len(self.source) > len("torchvision:")
        )
        require(
            known,
            f"source is {self.source!r}, expected digits, digit_pairs, folder, archive or torchvision:NAME",
        )
        require(
            self.path != "" and "://" not in self.path and "\0" not in self.path,
            f"path is {self.path!r}, expected a local folder or file; download data at a URL first",
        )
        require(
            not self.captions or self.source in ("digit_pairs", "folder", "archive"),
            f"captions is true, but source is {self.source}, which has none; set it to folder, archive or digit_pairs, "
            "or captions to false",
        )
        require(self.channels in (1, 3, None), f"channels is {self.channels}, expected 1, 3 or null")
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
            "store contains a credential, which params.yaml, dvc.lock and the shards' index would store; remove it "
            "and set the environment variables that this kind of store reads (AWS_PROFILE, FSSPEC_FTP_PASSWORD, …)",
        )
