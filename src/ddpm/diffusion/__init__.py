"""The mathematics of diffusion models: torch only, in the papers' symbols."""
