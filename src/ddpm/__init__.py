"""A factory for denoising diffusion models: images in, a measured and versioned model out."""

__version__ = "0.1.0"
