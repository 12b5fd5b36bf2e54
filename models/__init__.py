"""Code of what is trained. Imports nothing from `pipeline` but `portable`; weights live elsewhere."""
