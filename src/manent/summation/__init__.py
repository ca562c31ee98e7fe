"""How the clients' vectors are brought together."""

from manent.summation.plain import Plain

__all__ = ["Plain"]
