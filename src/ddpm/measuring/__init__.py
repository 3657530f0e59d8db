"""Metrics of generated images and of the model, with everything needed to measure them again."""
