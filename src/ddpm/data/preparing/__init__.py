"""Turn a source of images into shards, a manifest and the facts of the data set."""
