"""Which class has taken over which: what was said of a merged class holds for its successor."""

from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store.tables import LabelClass


def successors(session: Session, project_id: int) -> dict[int, int]:
    """For each class that was merged, the id of the present class that stands for it now."""
    query = select(LabelClass.id, LabelClass.merged_into)
    query = query.where(LabelClass.project_id == project_id, LabelClass.merged_into.is_not(None))
    into = dict(session.execute(query).tuples().all())
    return {number: _last(number, into) for number in into}


def _last(number: int, into: Mapping[int, int]) -> int:
    while number in into:
        number = into[number]
    return number


def current(classes: Iterable[int], successor_of: Mapping[int, int]) -> list[int]:
    """The classes with successors in place of those that were merged, each once."""
    return list(dict.fromkeys(successor_of.get(number, number) for number in classes))
