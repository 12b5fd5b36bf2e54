"""Code of what is trained. Imports nothing from `pipeline`; weights live elsewhere."""
