"""Sweeps: resuming interrupted ones, and reading, comparing and showing their jobs.

Hydra launches the jobs.
"""
