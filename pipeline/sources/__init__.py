"""Data sources: folders, archives, downloads, annotations, and the synthetic sample; `kinds` lists them.

Packing and training are in other packages.
"""
