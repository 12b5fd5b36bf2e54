"""Predictions of a model and their evaluation: out-of-domain images, ranking, plots.

`tasks` defines the metrics; nothing here trains.
"""
