"""Errors, paths, text and tables shared by all packages; independent of models, data sets and MLflow."""
