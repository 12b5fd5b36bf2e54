"""Using a trained model: predicting, exporting, serving, the page in the browser.

Training, and judging on the test split, stand elsewhere.
"""
