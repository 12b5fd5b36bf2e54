"""Tasks, single-label and multi-label: what training, evaluation and reports need for each.

A metric of the test split, shown in the leaderboard and report, is a `MetricSpec` and a line in `evaluate`
of its task (recipe in CONTRIBUTING.md). One of validation only needs no code: see `metrics` in
``conf/config.yaml``.
"""

from pipeline.tasks.base import SEPARATOR, Assessment, MetricSpec, Task, best_row
from pipeline.tasks.multi_label import MultiLabel
from pipeline.tasks.single_label import SingleLabel

_TASKS = {task.name: task for task in (SingleLabel(), MultiLabel())}


def of(name: str) -> Task:
    """The task named in a model card or in the data config."""
    return _TASKS[name]


def of_tag(name: str | None) -> Task:
    """The task in a run's tag; single-label if the tag is missing (old runs) or invalid (anyone can edit)."""
    return _TASKS.get(name, _TASKS["single_label"])
