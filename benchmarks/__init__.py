"""Programs that measure what the project claims; each prints a table."""
