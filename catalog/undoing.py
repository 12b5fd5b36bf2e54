"""Takes an action on many labels back, in several transactions: people can label between them."""

import time

from catalog.store import Database, labels
from catalog.store.bulk import PAUSE
from catalog.store.labels import Act
from catalog.store.tables import Action


def undo(database: Database, project_id: int, batch: str, person: str) -> tuple[int, int]:
    """As `catalog.store.labels.undo`, for actions of any size.

    Returns:
        The number of images that got their label back, and of those that were left alone.
    """
    with database.read() as session:
        events = labels.events_of(session, project_id, batch)
    again, undone = Act.start(Action.UNDO), 0
    for start in range(0, len(events), labels.CHUNK):
        if start:
            time.sleep(PAUSE)
        with database.write() as session:
            undone += labels.undo_events(session, events[start : start + labels.CHUNK], person, again)
    return undone, len(events) - undone
