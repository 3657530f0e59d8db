"""Exchange of models with diffusers: options, weights and folders."""
