"""The training loop and its exact resume."""
