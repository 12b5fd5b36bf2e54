"""Copies a whole database of the catalog into an empty one, of SQLite or PostgreSQL."""

import json
from collections.abc import Callable, Iterator

from sqlalchemy import (
    JSON,
    Column,
    Select,
    Table,
    Text,
    cast,
    column,
    func,
    insert,
    select,
    table,
    text,
    type_coerce,
    update,
)
from sqlalchemy.orm import Session

from catalog.store import identity, labels, projects
from catalog.store.database import Database
from catalog.store.tables import Base, Identity
from pipeline.common.errors import UserError

CHUNK = 1000  # rows
# The copy has an identity of its own, so that its folder isn't used with the one that is left behind.
TABLES = [each for each in Base.metadata.sorted_tables if each is not Identity.__table__]
Report = Callable[[str, int], None]  # a table and its number of rows


def copy(source: Database, target: Database, report: Report = lambda name, rows: None) -> dict[str, int]:
    """Copies all rows of one state of `source`, and checks the copy before it is committed.

    Ids stay as they are, and those of deleted rows aren't given again.

    Args:
        source: a database.
        target: an empty one.
        report: called after each table.

    Returns:
        The number of rows by table.

    Raises:
        UserError: `target` isn't empty, or the check has failed; then `target` stays as it was.
    """
    counts = {}
    with source.read() as reading, target.write() as writing:
        for session in (reading, writing):
            if session.get_bind().dialect.name == "postgresql":  # one side waits while the other is at work
                session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        check_empty(writing, target)
        for each in TABLES:
            counts[each.name] = _copy_table(reading, writing, each)
            report(each.name, counts[each.name])
        identity.of(writing).catalog = identity.of(reading).catalog
        _raise_last_ids(reading, writing)
        writing.flush()
        _check(reading, writing, counts)
    return counts


def check_empty(session: Session, database: Database) -> None:
    """Raises UserError if the database has a row."""
    for each in TABLES:
        if session.execute(select(each).limit(1)).first() is not None:
            message = f"the database {database.name} isn't empty: its table {each.name} has rows"
            raise UserError(f"{message}; name an empty one")


def _copy_table(reading: Session, writing: Session, source: Table) -> int:
    # A row may refer to one of the same table that comes later: such columns are set at the end.
    later = [each for each in source.columns if any(key.column.table is source for key in each.foreign_keys)]
    key = list(source.primary_key)
    target = table(source.name, *(column(each.name, _written(each)) for each in source.columns))
    count, references = 0, []
    for rows in _chunks(reading, source):
        for row in rows:
            for each in later:
                if row[each.name] is not None:
                    references.append(
                        ({name.name: row[name.name] for name in key}, each.name, row[each.name])
                    )
                    row[each.name] = None
        writing.execute(insert(target), rows)
        count += len(rows)
    for row_key, name, value in references:
        here = [target.c[part] == number for part, number in row_key.items()]
        writing.execute(update(target).where(*here).values({name: value}))
    return count


def _written(source: Column):
    """The type of a column for writing: one that keeps a missing value apart from JSON's null."""
    return (
        source.type if not _is_json(source) else JSON(none_as_null=True).with_variant(_jsonb(), "postgresql")
    )


def _jsonb():
    from sqlalchemy.dialects.postgresql import JSONB

    return JSONB(none_as_null=True)


def _is_json(source: Column) -> bool:
    return isinstance(source.type, JSON)


def _chunks(reading: Session, source: Table) -> Iterator[list[dict]]:
    """A table's rows in the order of their keys; JSON is read as text, which shows whether it is missing."""
    is_sqlite = reading.get_bind().dialect.name == "sqlite"
    as_text = type_coerce if is_sqlite else cast
    columns = [as_text(each, Text).label(each.name) if _is_json(each) else each for each in source.columns]
    query: Select = select(*columns).order_by(*source.primary_key)
    documents = [each.name for each in source.columns if _is_json(each)]
    result = reading.execute(query.execution_options(yield_per=CHUNK))
    for rows in result.mappings().partitions():
        found = [dict(row) for row in rows]
        for row in found:
            for name in documents:
                if row[name] is not None:
                    value = json.loads(row[name])
                    row[name] = JSON.NULL if value is None else value
        yield found


def _raise_last_ids(reading: Session, writing: Session) -> None:
    """Lets the copy count ids on from where the source is."""
    for each in TABLES:
        key = each.autoincrement_column
        if key is None or not (last := _last_id(reading, each, key)):
            continue
        if writing.get_bind().dialect.name == "sqlite":
            if not each.dialect_options["sqlite"]["autoincrement"]:
                continue
            values = {"name": each.name, "last": last}
            changed = writing.execute(
                text("UPDATE sqlite_sequence SET seq = :last WHERE name = :name"), values
            )
            if not changed.rowcount:
                writing.execute(text("INSERT INTO sqlite_sequence VALUES (:name, :last)"), values)
        else:
            sequence = func.pg_get_serial_sequence(each.name, key.name)
            writing.execute(select(func.setval(sequence, last)))


def _last_id(reading: Session, source: Table, key: Column) -> int:
    """The largest id that a table has given; 0 if it has given none."""
    largest = reading.scalar(select(func.max(key))) or 0
    if reading.get_bind().dialect.name == "sqlite":
        if not source.dialect_options["sqlite"]["autoincrement"]:
            return largest
        query = text("SELECT seq FROM sqlite_sequence WHERE name = :name")
        return max(largest, reading.scalar(query, {"name": source.name}) or 0)
    sequence = reading.scalar(select(func.pg_get_serial_sequence(source.name, key.name)))
    given = reading.scalar(text(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"))
    return max(largest, given)


def _check(reading: Session, writing: Session, counts: dict[str, int]) -> None:
    """Compares the numbers of rows, and each project's labels with its events.

    Raises:
        UserError: something differs.
    """
    for each in TABLES:
        query = select(func.count()).select_from(each)
        rows, copied = reading.scalar(query), writing.scalar(query)
        if not rows == copied == counts[each.name]:
            raise UserError(f"{copied:,} of {rows:,} rows of the table {each.name} were copied; try again")
    for project in projects.all_projects(writing):
        wrong, before = (
            sum(1 for _ in labels.differences(session, project.id)) for session in (writing, reading)
        )
        if wrong != before:
            message = f"{wrong:,} labels of {project.name} differ from the events after copying"
            raise UserError(f"{message}, {before:,} before it; nothing was copied")
