"""Looking after what was made: verifying and repairing files, rebuilding versions, choosing the champion.

No stage needs any of it.
"""
