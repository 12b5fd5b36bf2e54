"""Teaching by example: a linear head on frozen features, trained in the server while people add images.

Samples and classes lie in `catalog.store.samples`; the pages are in `catalog.web.teach`.
"""
