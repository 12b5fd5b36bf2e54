"""Counts of images, files that were read, and indexes for projects of an archive's size."""

import json
from collections import Counter

import sqlalchemy as sa
from alembic import op

revision = "0005c"
down_revision = "0005a"


def upgrade() -> None:
    op.create_table(
        "image_count",
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("project.id"), primary_key=True),
        sa.Column("class_id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("status", sa.String(length=10), primary_key=True),
        sa.Column("is_test", sa.Boolean(), primary_key=True),
        sa.Column("images", sa.Integer(), nullable=False),
    )
    op.create_table(
        "seen_file",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), sa.ForeignKey("project.id"), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("modified", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.UniqueConstraint("project_id", "path"),
        sqlite_autoincrement=True,
    )
    op.add_column(
        "project", sa.Column("refresh_problem", sa.String(length=400), nullable=False, server_default="")
    )
    op.create_index("image_lease", "image", ["project_id", "leased_until"])
    op.create_index("page_project", "page", ["project_id", "submitted_at"])
    op.add_column(
        "suggestion", sa.Column("is_waiting", sa.Boolean(), nullable=False, server_default=sa.true())
    )
    op.execute(
        "UPDATE suggestion SET is_waiting = image_id IN (SELECT id FROM image WHERE status = 'waiting')"
    )
    op.drop_index("suggestion_queue", "suggestion")
    op.create_index("suggestion_queue", "suggestion", ["project_id", "is_waiting", "cluster", "distance"])
    op.create_index("suggestion_confidence", "suggestion", ["project_id", "is_waiting", "confidence"])
    op.create_index("job_project", "job", ["project_id", "kind"])
    _count_images()


def _count_images() -> None:
    """Fills the counts, with rows of 0 for what no image has yet."""
    connection = op.get_bind()
    counted: Counter[tuple[int, int, str, bool]] = Counter()
    states = ("waiting", "labeled", "unknown", "skipped", "disputed", "removed")
    for (project_id,) in connection.execute(sa.text("SELECT id FROM project")).all():
        counted.update({(project_id, 0, state, is_test): 0 for state in states for is_test in (False, True)})
    for project_id, class_id in connection.execute(sa.text("SELECT project_id, id FROM label_class")).all():
        counted.update({(project_id, class_id, "labeled", is_test): 0 for is_test in (False, True)})
    grouped = sa.text(
        "SELECT project_id, status, is_test, CAST(classes AS VARCHAR), COUNT(*) FROM image "
        "GROUP BY project_id, status, is_test, CAST(classes AS VARCHAR)"
    )
    for project_id, status, is_test, classes, images in connection.execute(grouped).all():
        counted[project_id, 0, status, bool(is_test)] += images
        for class_id in json.loads(classes) if status == "labeled" else ():
            counted[project_id, class_id, status, bool(is_test)] += images
    names = ("project_id", "class_id", "status", "is_test")
    rows = [{**dict(zip(names, key, strict=True)), "images": images} for key, images in counted.items()]
    if rows:
        table = sa.table("image_count", *(sa.column(name) for name in (*names, "images")))
        op.bulk_insert(table, rows)
