"""Primitives: values in, values out; no network, no files, no policy."""

from manent.crypto.random import InsecureTestRNG, SystemRandom

__all__ = ["InsecureTestRNG", "SystemRandom"]
