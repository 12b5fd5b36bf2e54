"""The catalog's second process: reads images and computes suggestions, while the server answers people.

It talks to the server through the database only, so that killing either loses nothing.
"""
