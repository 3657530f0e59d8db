"""Damage real images on purpose, and see which metrics notice."""
