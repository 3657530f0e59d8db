"""From a source of images to shards, a manifest and the facts of the data."""
