"""A sweep compared: what its jobs were, what made the difference, and its page."""
