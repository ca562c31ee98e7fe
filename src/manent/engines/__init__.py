"""What runs a study."""

from manent.engines.conditions import Conditions
from manent.engines.replay import replay
from manent.engines.run import Run
from manent.engines.simulate import simulate

__all__ = ["Conditions", "Run", "replay", "simulate"]
