"""Queries: statistics of the clients' columns. Each is in a file of its own."""

from manent.analytics.histogram import Histogram
from manent.analytics.mean import Mean

__all__ = ["Histogram", "Mean"]
