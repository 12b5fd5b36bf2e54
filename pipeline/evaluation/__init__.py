"""Predictions of a model and their evaluation: out-of-domain images, ranking, plots.

Metrics are defined in `tasks`; nothing is trained here.
"""
