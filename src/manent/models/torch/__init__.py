"""PyTorch modules as models. Needs the extra `torch`."""

from manent.models.torch.model import TorchModel
from manent.models.torch.random import seeded

__all__ = ["TorchModel", "seeded"]
