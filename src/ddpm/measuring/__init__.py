"""Metrics of generated images and of the model, with the protocol needed to repeat the measurement."""
