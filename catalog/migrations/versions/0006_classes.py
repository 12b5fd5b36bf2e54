"""Images that are queued again with their earlier label, and changes of many labels that go on."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005d"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "relabeling",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("project.id"), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("batch", sa.String(length=40), nullable=False),
        sa.Column("undone_batch", sa.String(length=40), nullable=False),
        sa.Column("person", sa.String(length=100), nullable=False),
        sa.Column("class_id", sa.Integer(), sa.ForeignKey("label_class.id"), nullable=True),
        sa.Column("last_event", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("changed", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("relabeling_project", "relabeling", ["project_id", "id"])
    op.add_column("image", sa.Column("is_requeued", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("image", sa.Column("earlier", JSON, nullable=True))
    op.drop_index("image_queue", "image")
    op.create_index("image_queue", "image", ["project_id", "status", "is_requeued", "is_test", "rank"])
