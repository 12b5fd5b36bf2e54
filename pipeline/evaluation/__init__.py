"""What a model answers and how right that is: predictions, out-of-domain images, ranking, plots.

Which figures there are is up to `tasks`; nothing here trains.
"""
