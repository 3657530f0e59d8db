"""Encode training images once as latents, which then are what diffuses."""
