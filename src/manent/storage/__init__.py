"""Stores: in memory, and in a SQLite file."""

from manent.storage.memory import MemoryStore
from manent.storage.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore"]
