"""Opens a catalog: its folder and the database that belongs to it.

Started on another database by mistake, the catalog would take the folder's images for what nobody needs, and
delete them; or people would go on labeling in the copy that was left behind. So the folder records the
identity of its database, and is never used with another one.
"""

import contextlib
import re
from pathlib import Path

from catalog.library import DATABASE_VARIABLE, VARIABLE, Library
from catalog.store import Database, address, identity, open_database
from pipeline.artifacts import atomic
from pipeline.common.errors import UserError

FILE = "database.txt"  # in the catalog's folder: the database's identity, and where it was last
RESTORING = "tmp/restored.db"  # there while a backup is restored
_OWN = "catalog.db"  # in the same folder, wherever that is moved
_IDENTITY = re.compile(r"[0-9a-f]{32}")
_USER = re.compile(r"://[^@]*@")


def open_catalog(library: Library, may_create: bool = False) -> Database:
    """Opens a catalog's database, after migrating it.

    Args:
        library: of the catalog.
        may_create: whether the folder and the database are made if they aren't there.

    Raises:
        UnavailableError: the database can't be reached.
        UserError: there is no catalog, or the folder belongs to another database, which stays as it was.
    """
    found = identity.look(library.database)
    place = address.place(address.url_of(library.database))
    if not found.is_catalog and not may_create:
        raise UserError(
            f"there is no catalog in {place}; name its folder with --folder or {VARIABLE}, and its database, "
            f"if it is elsewhere, with --database or {DATABASE_VARIABLE}"
        )
    _check(library, found, place)
    library.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if may_create:
        with contextlib.suppress(PermissionError):  # it is somebody else's, who decides
            library.folder.chmod(library.folder.stat().st_mode & 0o7700)  # images, hashes of passwords
    database = open_database(library.database)
    record(library, database)
    return database


def record(library: Library, database: Database) -> None:
    """Records that the folder belongs to this database from now on."""
    with database.read() as session:
        known = identity.of(session).database
    place = _OWN if _is_own(library, database.place) else database.place
    text, file = f"{known}\n{place}\n", library.folder / FILE
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        try:
            atomic.replace_text(file, text)
        except OSError as error:
            raise UserError(f"{file} can't be written: {error.strerror or error}") from error


def _check(library: Library, found: identity.Found, place: str) -> None:
    """Raises UserError unless the folder belongs to the database, or to none yet."""
    file = library.folder / FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if lines and _IDENTITY.fullmatch(lines[0]):
        if lines[0] != found.identity:
            raise _another(library, lines[-1], place)
        return
    # A folder from before identities were recorded has the place, or, from before that, nothing.
    own = str(library.folder / _OWN)
    if lines:
        recorded = own if lines[0] == _OWN else lines[0]
        if not _is_same(recorded, place):
            raise _another(library, lines[0], place)
    elif Path(own).is_file() and not _is_own(library, place):
        raise _another(library, _OWN, place)
    has_images = any((library.folder / "images").glob("??/*"))
    if has_images and not found.has_images:
        if (library.folder / RESTORING).is_file():
            raise UserError(
                f"restoring a backup into {library.folder} was cut off; run the same command again"
            )
        raise UserError(
            f"{library.folder} has images, and the database {place} has none: name the one that they belong "
            f"to with --database or {DATABASE_VARIABLE}, or restore a backup into an empty folder"
        )
    if not lines and found.has_images and not (library.folder / "images").is_dir():
        raise UserError(
            f"the database {place} has images, and {library.folder} has none of them: name their folder with "
            f"--folder or {VARIABLE}, or restore a backup"
        )


def _another(library: Library, recorded: str, place: str) -> UserError:
    of_same_name = _is_same(recorded, place) or (recorded == _OWN and _is_own(library, place))
    which = "another one of that name, which is not there any more" if of_same_name else recorded
    return UserError(
        f"{library.folder} belongs to the database {which}, not to {place}: name that one with --database or "
        f"{DATABASE_VARIABLE}, copy it with petfaces catalog copy-database, or restore a backup into an "
        "empty folder"
    )


def _is_own(library: Library, place: str) -> bool:
    return _is_same(str(library.folder / _OWN), place)


def _is_same(place: str, other: str) -> bool:
    """Whether two places are the same, whoever connects and by whatever link."""
    if "://" in place or "://" in other:
        return _USER.sub("://", place) == _USER.sub("://", other)
    return Path(place).resolve() == Path(other).resolve()
