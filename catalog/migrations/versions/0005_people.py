"""Labels by person: of the last hours in a project, and of all projects."""

from alembic import op

revision = "0005a"
down_revision = "0004"


def upgrade() -> None:
    op.create_index("event_hours", "event", ["project_id", "at", "person", "page_kind"])
    op.create_index("event_person", "event", ["person", "page_kind"])
