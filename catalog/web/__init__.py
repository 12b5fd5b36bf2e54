"""The catalog's pages and its JSON interface.

Handlers translate between requests and `catalog.store`; they hold no state of their own. A new page is a
template, and a route in a module with a `router` that `catalog.app` includes.
"""
