"""Layers: what is done to a client's vector before it is summed, and undone on the total. One file a layer."""

from manent.layers.adaptive import AdaptiveClip
from manent.layers.clip import Clip
from manent.layers.correlated import CorrelatedNoise
from manent.layers.discretize import Discretize
from manent.layers.fixed import FixedPoint
from manent.layers.noise import CentralNoise, DistributedNoise, LocalNoise

__all__ = [
    "AdaptiveClip",
    "CentralNoise",
    "Clip",
    "CorrelatedNoise",
    "Discretize",
    "DistributedNoise",
    "FixedPoint",
    "LocalNoise",
]
