"""Files that stages leave and read: sealed folders, model folders, curves, lineage, checkpoints, ONNX.

What is in them is decided by the stages; MLflow's copies are `tracking`'s.
"""
