"""Watches folders: new files join their project by themselves.

Folders are listed once a minute. Notifications by the operating system (inotify and the like) aren't used:
they don't report what other machines write to a network share, where archives lie.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from catalog import sentences
from catalog.helper.folder_scan import Entry, scan
from catalog.store import Database, UnavailableError, jobs, projects, seen_files
from catalog.store.tables import JobState, Project
from pipeline.common import text
from pipeline.common.errors import UserError

INTERVAL = 60  # seconds from a look to the next one
SHARE = 10  # a look that takes long is followed by a pause of so many times its length
SETTLE = 5  # seconds that a file must be unchanged: it may still be written
PAUSE = 1  # seconds between checks whether a look is due

_log = logging.getLogger(__name__)


@dataclass
class Watched:
    """What is known of a watched folder.

    Attributes:
        known: hashes of the states of files that were read.
        last: id of the last row of `SeenFile` among them.
        requested: hashes of states, with the times of the files' attributes, that a reading was requested
            for. Files that can't be read stay unknown until their permissions change.
        fresh: such hashes that were new at the last look.
        next: when to look again, monotonic seconds.
    """

    known: set[int] = field(default_factory=set)
    last: int = 0
    requested: set[int] = field(default_factory=set)
    fresh: set[int] = field(default_factory=set)
    next: float = 0.0


class Watcher:
    """Looks at the folders of watched projects, and requests the reading of new files."""

    def __init__(self, database: Database):
        self._database = database
        self._watched: dict[int, Watched] = {}

    def run(self) -> None:
        """Looks at each folder when it is due, until the process ends.

        It has a thread of its own: a share that doesn't answer delays only other watched folders.
        """
        message = ""
        while True:
            try:
                self.look()
                message = ""
            except Exception as error:  # the next look may well succeed
                if str(error) != message:
                    message = str(error)
                    _log.exception("looking at the watched folders failed")
            time.sleep(PAUSE)

    def look(self, now: float | None = None) -> None:
        """Looks at the folders that are due.

        Args:
            now: monotonic seconds; tests move them on.
        """
        now = time.monotonic() if now is None else now
        with self._database.read() as session:
            found = projects.watched(session)
            session.expunge_all()
        self._watched = {each.id: self._watched.get(each.id, Watched()) for each in found}
        for project in found:
            watched = self._watched[project.id]
            if now < watched.next:
                continue
            begin = time.monotonic()
            problem, is_current = "", False
            try:
                is_current = self._look_at(project, watched)
            except UserError as error:
                problem = str(error)
            except UnavailableError:
                raise
            except Exception as error:  # other projects' folders are looked at all the same
                problem = text.shortened(f"{type(error).__name__}: {error}", 300)
                _log.exception("looking at %s failed", project.source_path)
            pause = SETTLE if watched.fresh else INTERVAL
            watched.next = now + max(pause, SHARE * (time.monotonic() - begin))
            self._note(project, problem, is_current)

    def _look_at(self, project: Project, watched: Watched) -> bool:
        """Requests a reading if there are new files; returns whether there are none.

        Raises:
            UserError: the folder can't be read.
        """
        if self._update(project, watched):
            return False
        fresh: dict[int, Entry] = {}
        count = 0
        for entry in _entries(Path(project.source_path)):
            count += 1
            state = hash((entry.key, entry.size, entry.modified))
            attempt = hash((state, entry.changed))
            if entry.size >= 0 and state not in watched.known and attempt not in watched.requested:
                fresh[attempt] = entry
        if not count and watched.known:
            number = f"{len(watched.known):,}"
            raise UserError(sentences.EMPTY_FOLDER.format(path=project.source_path, files=number))
        ready = {
            attempt
            for attempt, entry in fresh.items()
            if attempt in watched.fresh and has_settled(entry.modified)
        }
        watched.fresh = fresh.keys() - ready
        if ready:
            watched.requested |= ready
            with self._database.write() as session:
                jobs.request(session, project.id, jobs.Kind.READ)
        return not fresh

    def _update(self, project: Project, watched: Watched) -> bool:
        """Takes over what was read since the last look; returns whether a reading is under way."""
        with self._database.read() as session:
            states, watched.last = seen_files.since(session, project.id, watched.last)
            job = jobs.latest(session, project.id).get(str(jobs.Kind.READ))
            is_open = jobs.is_open(session, project.id, jobs.Kind.READ)
        watched.known.update(map(hash, states))
        if job is not None and job.state == JobState.FAILED:
            watched.requested.clear()
        return is_open

    def _note(self, project: Project, problem: str, is_current: bool) -> None:
        with self._database.write() as session:
            if (row := session.get(Project, project.id)) is not None:  # it may be deleted by now
                row.refresh_problem = problem
                if is_current:
                    row.refreshed_at = time.time()


def has_settled(modified: int) -> bool:
    """Whether a file's last change, in nanoseconds, is long enough ago; a share's clock may be ahead."""
    return abs(time.time() - modified / 1e9) >= SETTLE


def _entries(source: Path) -> Iterable[Entry]:
    """The files of a folder, or an archive as its only file.

    Raises:
        UserError: it is not there, or can't be read.
    """
    try:
        if source.is_file():
            status = source.stat()
            return [Entry(source.name, status.st_size, status.st_mtime_ns)]
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(sentences.UNREADABLE_FOLDER.format(path=source, reason=reason)) from error
    if not source.is_dir():
        raise UserError(f"{source} is not there; name a folder or an archive of this machine")
    return scan(source, [])
