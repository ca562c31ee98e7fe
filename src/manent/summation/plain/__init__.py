"""Summation in the clear: the server sees every vector."""

from manent.summation.plain.settings import Plain

__all__ = ["Plain"]
