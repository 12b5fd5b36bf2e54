"""Takes an action on many labels back, in several transactions: people can label between them."""

import time

from catalog.store import Database, import_log, labels
from catalog.store.bulk import PAUSE
from catalog.store.labels import Act
from catalog.store.tables import Action


def undo(database: Database, project_id: int, batch: str, person: str) -> tuple[int, int]:
    """Gives images the labels from before an action.

    Those that were labeled since then, or that somebody has open, are left alone. An import can be taken back
    again, for images that are free by then.

    Returns:
        The number of images that got their label back, and of those that were left alone. For an import the
        former counts those of earlier attempts, too.
    """
    with database.read() as session:
        is_import = import_log.find(session, project_id, batch) is not None
    if is_import:
        with database.write() as session:
            is_import = import_log.begin_undo(session, project_id, batch, person)
    with database.read() as session:
        events = labels.events_of(session, project_id, batch)
    again, undone = Act.start(Action.UNDO), 0
    for start in range(0, len(events), labels.CHUNK):
        if start:
            time.sleep(PAUSE)
        with database.write() as session:
            images = labels.undo_events(session, events[start : start + labels.CHUNK], person, again)
            undone += images
            if is_import:
                undone = import_log.count_undone(session, project_id, batch, images)
    return undone, len(events) - undone
