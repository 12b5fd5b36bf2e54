"""Searches a project's images: by label, person, kind of page and so on, in several orders, page by page.

A page begins where the last one ended, at the position of its last image (keyset pagination): its cost
doesn't grow with the number of pages before it, and labels that change meanwhile neither repeat nor hide
other images.

Each order has an index with all columns that are searched by. `_without_index` keeps the
database from another index, which would lead it to the images' rows one by one.
"""

import enum
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session, aliased

from catalog.language import _
from catalog.store import derived
from catalog.store.tables import Action, Image, Status, Suspect
from pipeline.common.errors import UserError

COUNTED = 10_000  # images; of more than these nobody needs the exact number
MAX_PEOPLE = 200


class Order(enum.StrEnum):
    """In which order images are shown."""

    NEWEST = "newest"  # the last label first; images without a label last
    UNSURE = "unsure"  # the least certain prediction first; only images with one
    RANDOM = "random"
    SUSPECTS = "suspects"  # the label that the pipeline's audit doubts most first; only such images


@dataclass(frozen=True)
class Search:
    """What is searched for; images that satisfy all of it are found.

    Attributes:
        statuses: any of these; all but removed images if empty.
        class_id: the class, or one of the classes.
        person: who has labeled it last.
        origin: what gave it its label, see `Image`.
        least, most: of the confidence of the prediction that the last label records.
        differs: whether only images count whose label is another one than this prediction.
        is_test: whether it is a test image; None for both.
        text: a part of the file's path, in capitals or not.
    """

    statuses: tuple[Status, ...] = ()
    class_id: int | None = None
    person: str = ""
    origin: str = ""
    least: float | None = None
    most: float | None = None
    differs: bool = False
    is_test: bool | None = None
    text: str = ""
    order: Order = Order.NEWEST


@dataclass(frozen=True)
class Position:
    """An image's place in an order: the value by which it is sorted, and its id."""

    value: float
    id: int

    def __str__(self) -> str:
        return f"{self.value!r}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Reads what `str` has written.

        Raises:
            UserError: it is something else.
        """
        value, _separator, number = text.partition(":")
        try:
            return cls(float(value) if "." in value or "e" in value else int(value), int(number))
        except ValueError:
            raise UserError(
                _("this address has no place in the results; begin with the first page")
            ) from None


@dataclass(frozen=True)
class Found:
    """A page of results.

    Attributes:
        positions: of its images, in their order.
        has_previous, has_next: whether there are images before and behind it.
    """

    positions: list[Position]
    has_previous: bool
    has_next: bool


def find(
    session: Session,
    project_id: int,
    search: Search,
    limit: int,
    after: Position | None = None,
    before: Position | None = None,
) -> Found:
    """A page of at most `limit` images: the first one, that behind `after`, or that before `before`."""
    rows = _walk(session, project_id, search, limit + 1, before or after, before is not None)
    more, rows = len(rows) > limit, rows[:limit]
    if before is None:
        return Found(rows, after is not None, more)
    if not more:  # the first page, and it is full
        return find(session, project_id, search, limit)
    return Found(rows[::-1], True, True)


def neighbours(
    session: Session, project_id: int, search: Search, place: Position
) -> tuple[Position | None, Position | None]:
    """The images before and behind a place; the image that was there need not match any more."""
    previous = _walk(session, project_id, search, 1, place, True)
    following = _walk(session, project_id, search, 1, place, False)
    return next(iter(previous), None), next(iter(following), None)


def _walk(
    session: Session, project_id: int, search: Search, limit: int, start: Position | None, backwards: bool
) -> list[Position]:
    """The first `limit` images from a place on, or from the start, in the order or against it."""
    columns = _key(search.order)
    descends = (search.order == Order.NEWEST) != backwards
    query = _matching(project_id, search, columns)
    if start is not None:
        here, there = tuple_(*columns), tuple_(literal(start.value), literal(start.id))
        query = query.where(here < there if descends else here > there)
    query = query.order_by(*(column.desc() if descends else column for column in columns)).limit(limit)
    return [Position(value, number) for value, number in session.execute(query)]


def count(session: Session, project_id: int, search: Search) -> int | None:
    """How many images match; None if they are more than COUNTED."""
    query = _matching(project_id, search, (Image.id,)).limit(COUNTED + 1)
    found = session.scalar(select(func.count()).select_from(query.subquery()))
    return None if found > COUNTED else found


def ids(session: Session, project_id: int, search: Search) -> list[int]:
    """The ids of the images that match, at most COUNTED of them, the first ones in their order."""
    return [position.id for position in find(session, project_id, search, COUNTED).positions]


def place(session: Session, image: Image, order: Order) -> Position | None:
    """An image's position in an order; None if it isn't among what is shown in this order."""
    value = session.scalar(_ordered(order, _key(order)).where(Image.id == image.id))
    return None if value is None else Position(value, image.id)


def people(session: Session, project_id: int) -> list[str]:
    """Who has made the last event of any image, by name; at most MAX_PEOPLE."""
    found, last = [], ""
    while len(found) < MAX_PEOPLE:  # one step in the index each: a DISTINCT reads all of it
        query = select(func.min(Image.labeled_by)).where(
            Image.project_id == project_id, Image.labeled_by > last
        )
        last = session.scalar(query)
        if last is None:
            break
        found.append(last)
    return found


def _key(order: Order) -> tuple[ColumnElement, ColumnElement]:
    """The column that an order sorts by, and the id, which decides between equal values."""
    return {
        Order.NEWEST: (Image.labeled_at, Image.id),
        Order.UNSURE: (Image.confidence, Image.id),
        Order.RANDOM: (Image.rank, Image.id),
        Order.SUSPECTS: (Suspect.own_probability, Suspect.image_id),
    }[order]


def _ordered(order: Order, columns: tuple) -> Select:
    """The images that are shown in an order."""
    if order == Order.SUSPECTS:
        return select(*columns).join_from(Suspect, Image, Image.id == Suspect.image_id).where(is_suspect())
    query = select(*columns)
    return query.where(Image.confidence.is_not(None)) if order == Order.UNSURE else query


def is_suspect() -> ColumnElement[bool]:
    """Whether the doubted label is still the image's: not labeled again, but for changes that were undone."""
    restored = and_(
        _without_index(Image.origin) == Action.UNDO, _without_index(Image.class_key) == Suspect.class_key
    )
    return or_(Image.event_id == Suspect.event_id, restored)


def _matching(project_id: int, search: Search, columns: tuple) -> Select:
    query = _ordered(search.order, columns)
    if search.order == Order.SUSPECTS:
        query = query.where(Suspect.project_id == project_id)
    else:
        query = query.where(Image.project_id == project_id)
    if search.statuses:
        query = query.where(_without_index(Image.status).in_(search.statuses))
    else:
        query = query.where(_without_index(Image.status) != Status.REMOVED)
    if search.class_id is not None:
        query = query.where(_without_index(Image.class_key).contains(derived.containing(search.class_id)))
    if search.person:
        query = query.where(_without_index(Image.labeled_by) == search.person)
    if search.origin:
        query = query.where(_without_index(Image.origin) == search.origin)
    if search.least is not None:
        query = query.where(_without_index(Image.confidence) >= search.least)
    if search.most is not None:
        query = query.where(_without_index(Image.confidence) <= search.most)
    if search.differs:
        query = query.where(_without_index(Image.differs))
    if search.is_test is not None:
        query = query.where(_without_index(Image.is_test) == search.is_test)
    if search.text:
        query = query.where(Image.id.in_(_with_text(project_id, search.text)))
    return query


def _with_text(project_id: int, text: str) -> Select:
    """Ids of the images whose path contains the text, from one pass over the rows as they lie on the disk."""
    other = aliased(Image)
    is_own = _without_index(other.project_id) == project_id
    return select(other.id).where(is_own, other.path.icontains(text, autoescape=True))


def _without_index(column: ColumnElement) -> ColumnElement:
    """The column, as an expression for which the database looks for no index."""
    return func.coalesce(column, column)
