"""Kinds of labels: what training, evaluation and reports have to know of each."""

from pipeline.tasks.base import SEPARATOR, Assessment, Figure, Task
from pipeline.tasks.multi_label import MultiLabel
from pipeline.tasks.single_label import SingleLabel

_TASKS = {task.name: task for task in (SingleLabel(), MultiLabel())}


def of(name: str) -> Task:
    """The task of this name, as a model's card and the configuration of data name it."""
    return _TASKS[name]


def of_tag(name: str | None) -> Task:
    """The task that a run's tag names: anybody can write one, and runs of earlier code have none."""
    return _TASKS.get(name, _TASKS["single_label"])
