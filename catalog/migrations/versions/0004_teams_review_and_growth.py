"""Accounts, watched folders, second opinions, actions on many labels, and changes of classes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.String(length=100), nullable=False, unique=True),
        sa.Column("role", sa.String(length=10), nullable=False),
        sa.Column("password", sa.String(length=200), nullable=False),
        sa.Column("session_key", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "class_change",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("project.id"), nullable=False),
        sa.Column("class_id", sa.Integer(), sa.ForeignKey("label_class.id"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("person", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("before", sa.String(length=200), nullable=False),
        sa.Column("after", sa.String(length=200), nullable=False),
        sa.Column("policy", sa.String(length=10), nullable=False),
        sa.Column("batch", sa.String(length=40), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("class_change_project", "class_change", ["project_id", "id"])
    op.add_column("project", sa.Column("is_watched", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("project", sa.Column("refreshed_at", sa.Double(), nullable=True))
    op.add_column("project", sa.Column("second_share", sa.Double(), nullable=False, server_default="0"))
    with op.batch_alter_table("label_class", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.add_column(sa.Column("merged_into", sa.Integer(), nullable=True))
        batch.create_foreign_key("label_class_merged_into", "label_class", ["merged_into"], ["id"])
    op.add_column("image", sa.Column("first_person", sa.String(length=100), nullable=True))
    op.create_index("image_second", "image", ["project_id", "first_person"])
    op.add_column("event", sa.Column("answer", JSON, nullable=True))
    op.add_column("event", sa.Column("action", sa.String(length=12), nullable=True))
    op.add_column("event", sa.Column("reason", sa.String(length=500), nullable=True))
    op.add_column("event", sa.Column("batch", sa.String(length=40), nullable=True))
    op.create_index("event_batch", "event", ["batch"])
