"""Uses trained models: prediction, export, serving, the browser demo.

Training and evaluation are in other packages.
"""
