"""The leaderboard and the report page, built from files of other stages.

No model runs here.
"""
