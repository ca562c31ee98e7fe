"""PyTorch modules as models. Needs the extra `torch`."""

from manent.models.torch.model import TorchModel
from manent.models.torch.network import seeded

__all__ = ["TorchModel", "seeded"]
