"""Who computes the clients' halves of a simulation: forked processes, threads, or this process itself."""

from __future__ import annotations

import os

from manent.core.protocols import AlgorithmTraits, ModelTraits, traits
from manent.engines.clients import ClientSide
from manent.engines.pools.forked import Forked
from manent.engines.pools.in_process import InProcess
from manent.engines.pools.pool import Measure, Pool
from manent.engines.pools.threads import Threads

__all__ = ["Forked", "InProcess", "Measure", "Pool", "Threads", "start_pool"]


def start_pool(count: int, side: ClientSide, measure: Measure) -> Pool:
    """A pool of so many workers, started; 0 works in this process.

    A model that computes outside Python's lock gets threads. One that takes several clients in a call gets this process, as
    they compute together already. Everything else gets forked processes, where the system can fork.
    """
    model = traits(side.plan.study.algorithm, AlgorithmTraits).model
    if count and traits(model, ModelTraits).threadsafe:
        return Threads(count, side, measure)
    if count and side.together == 1 and hasattr(os, "fork"):
        return Forked(count, side, measure)
    return InProcess(side, measure)
