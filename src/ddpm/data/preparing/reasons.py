"""Reasons why a file is rejected, in the words of the manifest."""

from ddpm.data.preparing.formats import NOT_READ

NO_IMAGE = "no image"
EMPTY = "empty file (0 bytes)"
DAMAGED = "truncated or damaged"
TOO_LARGE = "more than max_pixels"
TOO_MUCH_MEMORY = "more memory than max_picture_bytes to decode"
DUPLICATE = "duplicate"
UNKNOWN_VALUES = "pixel values of unknown kind"
NEARLY_BLACK = "16-bit values below 4096 only, which would be black; data.white says which value is white"
UNREADABLE = "unreadable"
SPECIAL_FILE = "no regular file"
LINK = "link inside an archive"
NO_NAME = "no name inside the archive"
UNKNOWN_NAME = "a name inside the archive that is not UTF-8"
TOO_MANY_HEADERS = "too many headers inside the archive"
OUTSIDE_SPLITS = "outside the train and test folders; move it into one of them"
OUTSIDE_CLASSES = "outside the class folders; move it into one of them, or set data.labels to false"


def not_read(name: str) -> str:
    """Return the reason for one of formats.NOT_READ."""
    return f"a format that is not read ({name})"


REASONS = (
    *(NO_IMAGE, EMPTY, DAMAGED, TOO_LARGE, TOO_MUCH_MEMORY, DUPLICATE, UNKNOWN_VALUES, NEARLY_BLACK),
    *(UNREADABLE, SPECIAL_FILE, LINK, NO_NAME, UNKNOWN_NAME, TOO_MANY_HEADERS, OUTSIDE_SPLITS, OUTSIDE_CLASSES),
    *(not_read(name) for name in NOT_READ),
)
