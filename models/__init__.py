"""Code of what is trained. Of `pipeline` it imports `portable` and `tasks` alone; weights live elsewhere."""
