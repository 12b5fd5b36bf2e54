"""Teaching by example: a linear head on frozen features, its training step by step, and how good it is."""
