"""Models from and for diffusers: options, weights and folders."""
