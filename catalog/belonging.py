"""Which database a catalog's folder belongs to.

Started on another one by mistake, the catalog would take the folder's images for what nobody needs, and
delete them; or people would go on labeling in the copy that was left behind.
"""

from catalog.library import Library
from pipeline.artifacts import atomic
from pipeline.common.errors import UserError

FILE = "database.txt"  # in the catalog's folder
_OWN = "catalog.db\n"  # in the same folder, wherever that is moved


def check(library: Library, place: str) -> None:
    """Records the folder's database at its first start.

    Args:
        library: with the folder.
        place: of `Database.place`.

    Raises:
        UserError: the folder belongs to another database.
    """
    file = library.folder / FILE
    if not file.is_file():
        # A folder from before this file was written belongs to the database in it.
        has_own = library.database_url and (library.folder / "catalog.db").is_file()
        atomic.replace_text(file, _OWN if has_own else _text(library, place))
    known = file.read_text(encoding="utf-8")
    if known != _text(library, place):
        raise UserError(
            f"{library.folder} belongs to the database {known.strip()}, not to {place}: name that one with "
            f"--database, copy it with petfaces catalog copy-database, or delete {file} if it has moved"
        )


def change(library: Library, place: str) -> None:
    """Records that the folder belongs to another database from now on."""
    atomic.replace_text(library.folder / FILE, _text(library, place))


def _text(library: Library, place: str) -> str:
    return _OWN if place == str(library.folder / "catalog.db") else f"{place}\n"
