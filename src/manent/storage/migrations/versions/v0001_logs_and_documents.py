"""Logs, whose rows are never changed or removed, and documents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SQLITE = (
    "CREATE TRIGGER logs_keep_rows BEFORE DELETE ON logs BEGIN SELECT RAISE(ABORT, 'a log only grows'); END",
    "CREATE TRIGGER logs_keep_content BEFORE UPDATE ON logs BEGIN SELECT RAISE(ABORT, 'a log only grows'); END",
)
_POSTGRESQL = (
    "CREATE FUNCTION logs_only_grow() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'a log only grows' USING ERRCODE = 'integrity_constraint_violation'; END $$",
    "CREATE TRIGGER logs_keep_rows BEFORE UPDATE OR DELETE ON logs FOR EACH ROW EXECUTE FUNCTION logs_only_grow()",
    "CREATE TRIGGER logs_keep_all BEFORE TRUNCATE ON logs FOR EACH STATEMENT EXECUTE FUNCTION logs_only_grow()",
)


def upgrade() -> None:
    """Make the tables, and the triggers against a slip of the hand."""
    name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "logs",
        sa.Column("log", name, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("row", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("log", "sequence"),
    )
    op.create_table(
        "documents",
        sa.Column("key", name, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
