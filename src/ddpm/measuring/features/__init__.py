"""The feature extractor: network, training and file."""
