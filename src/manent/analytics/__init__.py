"""Queries, one file each."""

from manent.analytics.histogram import Histogram
from manent.analytics.mean import Mean

__all__ = ["Histogram", "Mean"]
