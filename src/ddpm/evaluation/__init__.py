"""What is measured of a model, how it is generated, and how the figures are recorded."""
