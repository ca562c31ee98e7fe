"""Secure aggregation: SecAgg+ of Bell et al. 2020, as sans-I/O parties. `docs/secagg.md` specifies it."""

from manent.summation.secagg.client import SecAggClient
from manent.summation.secagg.server import SecAggServer
from manent.summation.secagg.settings import SecAgg
from manent.summation.secagg.terms import Call, Expected, Terms

__all__ = ["Call", "Expected", "SecAgg", "SecAggClient", "SecAggServer", "Terms"]
