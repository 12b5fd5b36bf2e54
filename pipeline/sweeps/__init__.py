"""Sweeps: resuming one that was broken off, and reading, comparing and showing its jobs.

Launching jobs is Hydra's business.
"""
