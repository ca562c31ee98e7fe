"""The tables of a store. Alembic's migrations bring a database up to date when it is opened, under a lock."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from manent.core.errors import InvalidInput

VERSION_TABLE = "manent_version"
HEAD = "0001"  # the newest migration; a database that has it needs none of the others

# Keys are ordered by code point everywhere, as in Python. Else PostgreSQL would use the order of a language.
Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

METADATA = sa.MetaData()
LOGS = sa.Table(
    "logs",
    METADATA,
    sa.Column("log", Name, primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("row", sa.LargeBinary, nullable=False),
)
DOCUMENTS = sa.Table(
    "documents",
    METADATA,
    sa.Column("key", Name, primary_key=True),
    sa.Column("document", sa.LargeBinary, nullable=False),
)


def version(connection: sa.Connection) -> str | None:
    """The migration that a database has; None for a database without a store."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def upgrade(connection: sa.Connection, name: str) -> None:
    """Run the migrations that a database lacks, in the connection's present transaction. The caller holds a lock.

    Args:
        name: of the database, for errors.

    Raises:
        InvalidInput: for a database that a newer manent has made, or that has another program's tables of these names.
    """
    found = version(connection)
    if found == HEAD:
        return
    taken = {LOGS.name, DOCUMENTS.name} & set(sa.inspect(connection).get_table_names())
    if found is None and taken:
        raise InvalidInput(
            f"{name} has a table {min(taken)!r} that is not of this schema: it is of another program, or of a manent before "
            f"0.1. Name another file or database."
        )
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if found is not None and found not in {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}:
        raise InvalidInput(f"{name} has version {found}; this manent knows up to {HEAD}. Use a newer manent.")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
