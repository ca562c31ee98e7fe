"""Stores, in memory and in SQL (SQLite, PostgreSQL), and blobs, in a folder or an S3-compatible bucket."""

from manent.storage.blobs import Blobs, Parts
from manent.storage.memory import MemoryStore
from manent.storage.opening import is_url, open_store

__all__ = ["Blobs", "MemoryStore", "Parts", "is_url", "open_store"]
