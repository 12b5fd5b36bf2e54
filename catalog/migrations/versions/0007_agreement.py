"""Second labels: which event another one takes back, and indexes by which they are found."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("event", sa.Column("takes_back", sa.Integer(), nullable=True))
    op.create_index("event_takes_back", "event", ["takes_back"])
    op.create_index("event_kind", "event", ["project_id", "page_kind", "id"])
    op.create_index("page_kind", "page", ["project_id", "kind", "person", "submitted_at"])
    op.drop_index("image_second", "image")
    op.create_index("image_second", "image", ["project_id", "first_person", "rank"])
