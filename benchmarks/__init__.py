"""Programs that measure what the project claims; each prints its table."""
