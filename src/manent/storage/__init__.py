"""Stores, in memory and in SQL (SQLite, PostgreSQL), and blobs, in a folder and in S3."""

from manent.storage.memory import MemoryStore
from manent.storage.opening import is_url, open_store

__all__ = ["MemoryStore", "is_url", "open_store"]
