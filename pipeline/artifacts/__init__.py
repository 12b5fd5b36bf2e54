"""Files that stages write and read: sealed folders, model folders, curves, lineage, checkpoints, ONNX.

The stages decide the contents; `tracking` handles the copies in MLflow.
"""
