"""What an image's row says of its last event: its current label, and by what people search for it."""

from collections.abc import Iterable, Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from catalog.store.tables import Event, Image, Status

MAX_KEY = 2000  # characters, of some 400 classes; an index of PostgreSQL takes no longer values
_JUDGED = (Status.LABELED, Status.UNKNOWN)  # answers that can differ from a prediction


def class_key(classes: Iterable[int]) -> str:
    """The classes as text, in which `containing` finds each; what is longer than MAX_KEY is cut off."""
    key = "".join(f",{number}" for number in sorted(classes))
    if len(key) >= MAX_KEY:
        key = key[: key.rindex(",", 0, MAX_KEY)]
    return f"{key}," if key else ""


def containing(class_id: int) -> str:
    """What a class is in `class_key`."""
    return f",{class_id},"


def columns(event: Event | None) -> dict[str, object]:
    """The columns of `Image` that follow from its last event; None before the first one."""
    if event is None:
        label = {"status": Status.WAITING, "classes": [], "event_id": None, "class_key": ""}
        label["first_person"] = None
        by = {"labeled_by": "", "labeled_at": 0.0, "origin": ""}
        requeued = {"is_requeued": False, "earlier": None}
        return {**label, **by, "confidence": None, "differs": False, **requeued}
    state, is_predicted = event.after, event.predicted is not None
    return {
        "status": Status(state["status"]),
        "classes": state["classes"],
        "first_person": state.get("first_person"),
        "event_id": event.id,
        "class_key": class_key(state["classes"]),
        "labeled_by": event.person,
        "labeled_at": event.at,
        "origin": str(event.page_kind or event.action or ""),
        "confidence": event.confidence if is_predicted else None,
        "differs": differs(event),
        "is_requeued": "earlier" in state,
        "earlier": state.get("earlier"),
    }


def differs(event: Event) -> bool:
    """Whether the person has said something else than the prediction that was recorded."""
    if event.predicted is None or event.after["status"] not in _JUDGED:
        return False
    return sorted(event.predicted) != event.after["classes"]


def apply(image: Image, values: dict[str, object]) -> None:
    """Sets the columns of an image that `columns` has returned."""
    for name, value in values.items():
        setattr(image, name, value)


def wrong(session: Session, project_id: int) -> Iterator[tuple[Image, dict[str, object]]]:
    """Images whose columns don't follow from their events, with the right values."""
    query = select(Event).where(Event.project_id == project_id).order_by(Event.id)
    events = session.scalars(query.execution_options(yield_per=1000))
    expected = {event.image_id: columns(event) for event in events}
    never = columns(None)
    for image in session.scalars(select(Image).where(Image.project_id == project_id)):
        values = expected.get(image.id, never)
        if any(getattr(image, name) != value for name, value in values.items()):
            yield image, values
