"""The leaderboard and the report page, built from files that stages wrote.

No model runs here. The stage is ``pipeline/report.py``; a new template is also listed in ``dvc.yaml`` (deps
of report) and ``pyproject.toml`` (package-data).
"""
