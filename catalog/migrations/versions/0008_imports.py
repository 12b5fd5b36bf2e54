"""Files of labels that wait, and imports that can be taken back later."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "label_import",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("project.id"), nullable=False),
        sa.Column("batch", sa.String(length=40), nullable=False, unique=True),
        sa.Column("person", sa.String(length=100), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("format", sa.String(length=30), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("preview", JSON, nullable=True),
        sa.Column("choices", JSON, nullable=True),
        sa.Column("counts", JSON, nullable=False),
        sa.Column("undone_at", sa.Double(), nullable=True),
        sa.Column("undone_by", sa.String(length=100), nullable=False),
        sa.Column("undone", sa.Integer(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("label_import_project", "label_import", ["project_id", "id"])
