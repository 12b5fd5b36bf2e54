"""Errors, paths, text and tables, which every other package uses.

Nothing here knows of models, data sets or MLflow.
"""
