"""Sweeps: resuming interrupted ones, and reading, comparing and showing their jobs.

Hydra launches the jobs: a launcher is a Hydra plugin, chosen by ``hydra/launcher=NAME``, and needs no code
here. `basic` and `joblib` were tried.
"""
