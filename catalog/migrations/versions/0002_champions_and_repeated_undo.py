"""Champions of the pipeline that predict in a project; the page that undoing another one has opened."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for table in ("project", "model"):
        column = sa.Column("champion", sa.String(length=200), nullable=False, server_default="")
        op.add_column(table, column)
    op.add_column("page", sa.Column("reopened_as", sa.String(length=40), nullable=True))
