"""What runs a study."""

from manent.engines.conditions import Conditions
from manent.engines.loggers import MLflowLogger, TensorBoardLogger
from manent.engines.replay import replay
from manent.engines.run import Run
from manent.engines.simulate import simulate

__all__ = ["Conditions", "MLflowLogger", "Run", "TensorBoardLogger", "replay", "simulate"]
