"""Maintenance: verifying and repairing files, rebuilding versions, choosing the champion.

No stage depends on it.
"""
