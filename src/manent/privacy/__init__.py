"""Layers, the check, and the statement of who sees what."""

from manent.privacy.check import Plan, check, resolve
from manent.privacy.statement import Observer, Statement, SumLine

__all__ = ["Observer", "Plan", "Statement", "SumLine", "check", "resolve"]
