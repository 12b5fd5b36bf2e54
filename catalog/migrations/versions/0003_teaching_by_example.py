"""Projects of the teach page: classes that are switched off, and the recording that an image belongs to.

Rows can be deleted from now on, so ids must not be used again: other processes may still know them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("project", sa.Column("kind", sa.String(length=10), nullable=False, server_default="label"))
    is_enabled = sa.Column("is_enabled", sa.Boolean(), nullable=False, server_default=sa.true())
    op.add_column("label_class", is_enabled)
    op.add_column("image", sa.Column("burst", sa.String(length=40), nullable=True))
    if op.get_bind().dialect.name == "sqlite":  # PostgreSQL's sequences never go back
        for table in ("project", "label_class", "image", "job"):
            with op.batch_alter_table(table, recreate="always", table_kwargs={"sqlite_autoincrement": True}):
                pass
    op.create_index("image_sha256", "image", ["sha256"])
