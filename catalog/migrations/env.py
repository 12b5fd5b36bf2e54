"""Runs migrations on the connection that `catalog.store.database` opened."""

from alembic import context

from catalog.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite can't alter columns; Alembic copies the table instead
)
with context.begin_transaction():
    context.run_migrations()
