"""Where Alembic gets its connection: `storage.schema.upgrade` holds it, inside its transaction."""

from __future__ import annotations

from alembic import context

from manent.storage.schema import METADATA, VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, version_table=VERSION_TABLE)
# No transaction of Alembic's own: the caller's holds the lock until everything is there.
context.run_migrations()
