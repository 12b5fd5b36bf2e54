"""Builds, fits (with Lightning's Trainer) and calibrates the model that a configuration describes.

Nothing here logs to MLflow or plots; the stage train does.
"""
