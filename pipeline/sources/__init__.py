"""Image sources: folders, archives, downloads, annotations, and the synthetic sample.

Packing and training are in other packages.
"""
