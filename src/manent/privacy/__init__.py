"""The stack that orders and checks layers, the plan, the check, and the statement of who sees what."""

from manent.privacy.check import Plan, check, resolve
from manent.privacy.stack import Stack
from manent.privacy.statement import Observer, Protection, Statement, SumLine

__all__ = ["Observer", "Plan", "Protection", "Stack", "Statement", "SumLine", "check", "resolve"]
