"""Why a file that was found is not among the images. The manifest says it in these words."""

NO_IMAGE = "no image"
DAMAGED = "truncated or damaged"
TOO_LARGE = "more than max_pixels"
DUPLICATE = "duplicate"
UNKNOWN_VALUES = "pixel values of unknown kind"
UNREADABLE = "unreadable"
SPECIAL_FILE = "no regular file"
LINK = "link inside an archive"
OUTSIDE_SPLITS = "outside the train and test folders"
OUTSIDE_CLASSES = "outside the class folders"

REASONS = (
    *(NO_IMAGE, DAMAGED, TOO_LARGE, DUPLICATE, UNKNOWN_VALUES),
    *(UNREADABLE, SPECIAL_FILE, LINK, OUTSIDE_SPLITS, OUTSIDE_CLASSES),
)
