"""The leaderboard and the report's page, made of files that other stages left.

No model runs here.
"""
