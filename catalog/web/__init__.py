"""The catalog's pages and its JSON interface.

Handlers translate between requests and `catalog.store`; they hold no state of their own.
"""
