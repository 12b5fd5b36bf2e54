"""From a configuration to a trained, calibrated model: building, fitting on Lightning's Trainer, assessing.

Nothing here logs to MLflow or draws; the stage train does.
"""
