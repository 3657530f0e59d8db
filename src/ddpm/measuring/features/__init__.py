"""The feature extractor: its network, its training and its file."""
