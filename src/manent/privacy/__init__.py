"""Layers, the check, and the statement of who sees what."""

from manent.privacy.adaptive import AdaptiveClip
from manent.privacy.check import Plan, check, resolve
from manent.privacy.clip import Clip
from manent.privacy.discretize import Discretize
from manent.privacy.fixed import FixedPoint
from manent.privacy.noise import CentralNoise, DistributedNoise, LocalNoise
from manent.privacy.stack import Stack
from manent.privacy.statement import Observer, Protection, Statement, SumLine
from manent.privacy.tree import TreeNoise

__all__ = [
    "AdaptiveClip",
    "CentralNoise",
    "Clip",
    "Discretize",
    "DistributedNoise",
    "FixedPoint",
    "LocalNoise",
    "Observer",
    "Plan",
    "Protection",
    "Stack",
    "Statement",
    "SumLine",
    "TreeNoise",
    "check",
    "resolve",
]
