"""Degraded pictures: what they have lost, and how they become the condition of a network."""
