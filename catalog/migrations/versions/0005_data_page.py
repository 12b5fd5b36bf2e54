"""By what the data page searches for images: derived from each one's last event; suspicious labels."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005d"
down_revision = "0005c"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")
CHUNK = 2000  # images
MAX_KEY = 2000
SEARCHED = ("status", "is_test", "origin", "differs", "labeled_by", "class_key")

# The columns as they were when this was written: later versions of the code have others.
_image = sa.table(
    "image",
    *map(sa.column, ("id", "event_id", "class_key", "labeled_by", "labeled_at", "origin", "confidence")),
    sa.column("differs", sa.Boolean()),
)
_event = sa.table(
    "event",
    *map(sa.column, ("id", "image_id", "at", "person", "page_kind", "action", "confidence")),
    sa.column("predicted", sa.JSON()),
    sa.column("after", sa.JSON()),
)


def upgrade() -> None:
    op.create_table(
        "suspect",
        sa.Column("image_id", sa.Integer(), sa.ForeignKey("image.id"), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("project.id"), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("class_key", sa.String(), nullable=False),
        sa.Column("proposed", JSON, nullable=False),
        sa.Column("own_probability", sa.Double(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=False),
    )
    op.create_index("suspect_order", "suspect", ["project_id", "own_probability", "image_id"])
    for column in (
        sa.Column("class_key", sa.String(), nullable=False, server_default=""),
        sa.Column("labeled_by", sa.String(length=100), nullable=False, server_default=""),
        sa.Column("labeled_at", sa.Double(), nullable=False, server_default="0"),
        sa.Column("origin", sa.String(length=12), nullable=False, server_default=""),
        sa.Column("confidence", sa.Double(), nullable=True),
        sa.Column("differs", sa.Boolean(), nullable=False, server_default=sa.false()),
    ):
        op.add_column("image", column)
    _fill()
    op.create_index("image_person", "image", ["project_id", "labeled_by"])
    for name, first, last in (
        ("image_by_time", "labeled_at", ["confidence"]),
        ("image_by_confidence", "confidence", []),
        ("image_by_rank", "rank", ["confidence"]),
    ):
        op.create_index(name, "image", ["project_id", first, "id", *SEARCHED, *last])


def _fill() -> None:
    """Sets the new columns of all images that have events, in steps."""
    connection, start = op.get_bind(), 0
    change = (
        sa.update(_image)
        .where(_image.c.id == sa.bindparam("key"))
        .values({name: sa.bindparam(f"new_{name}") for name in _columns(None)})
    )
    while True:
        query = (
            sa.select(_event)
            .join(_image, _image.c.event_id == _event.c.id)
            .where(_image.c.id > start)
            .order_by(_image.c.id)
            .limit(CHUNK)
        )
        events = connection.execute(query).all()
        if not events:
            return
        start = events[-1].image_id
        rows = [
            {"key": event.image_id, **{f"new_{name}": value for name, value in _columns(event).items()}}
            for event in events
        ]
        connection.execute(change, rows)


def _columns(event: sa.Row | None) -> dict[str, object]:
    """As `catalog.store.derived.columns` did when this was written."""
    if event is None:
        return dict.fromkeys(("class_key", "labeled_by", "labeled_at", "origin", "confidence", "differs"))
    classes, is_predicted = sorted(event.after["classes"]), event.predicted is not None
    key = "".join(f",{number}" for number in classes)
    key = key[: key.rindex(",", 0, MAX_KEY)] if len(key) >= MAX_KEY else key
    is_judged = event.after["status"] in ("labeled", "unknown")
    return {
        "class_key": f"{key}," if key else "",
        "labeled_by": event.person,
        "labeled_at": event.at,
        "origin": event.page_kind or event.action or "",
        "confidence": event.confidence if is_predicted else None,
        "differs": is_predicted and is_judged and sorted(event.predicted) != classes,
    }
