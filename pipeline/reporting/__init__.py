"""The leaderboard and the report page, built from files that stages wrote.

No model runs here.
"""
