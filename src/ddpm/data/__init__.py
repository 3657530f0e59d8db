"""From a source of images to memory-mapped arrays and a manifest."""
