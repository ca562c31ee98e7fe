"""How terms are brought together."""

from manent.summation.plain import Plain
from manent.summation.secagg import SecAgg

__all__ = ["Plain", "SecAgg"]
