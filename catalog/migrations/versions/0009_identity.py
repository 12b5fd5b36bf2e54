"""A random identity, by which a folder and a backup know the catalog's database."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    table = op.create_table(
        "identity",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("catalog", sa.String(length=32), nullable=False),
        sa.Column("database", sa.String(length=32), nullable=False),
    )
    op.bulk_insert(table, [{"id": 1, "catalog": secrets.token_hex(16), "database": secrets.token_hex(16)}])
