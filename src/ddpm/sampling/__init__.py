"""The reverse process: grids, samplers, solvers, guidance, restoration, editing and likelihood.

Imports torch and `diffusion`.
"""
