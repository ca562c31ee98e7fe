"""Local training declared as data: what each client does with its own rows. Each model file carries it out."""

from manent.core.training.dpsgd import DPSGD
from manent.core.training.local import Batch, Count, Gradient, LocalSGD, LocalTraining, Trained, descend, descend_privately
from manent.core.training.schedules import Constant, CosineDecay, ExponentialDecay, Schedule, WarmUp

__all__ = [
    "DPSGD",
    "Batch",
    "Constant",
    "CosineDecay",
    "Count",
    "ExponentialDecay",
    "Gradient",
    "LocalSGD",
    "LocalTraining",
    "Schedule",
    "Trained",
    "WarmUp",
    "descend",
    "descend_privately",
]
