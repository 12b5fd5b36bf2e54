"""Uses trained models: prediction, export, serving, the browser demo."""
