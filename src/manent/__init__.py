"""manent: private federated learning and analytics. Models travel; data manent: the data remain."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manent import data
from manent.accounting import Budget
from manent.algorithms import (
    SCAFFOLD,
    Evaluation,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedDyn,
    FedNova,
    FedProx,
    FedSGD,
    FedYogi,
)
from manent.analytics import Histogram, Mean
from manent.core.errors import (
    BudgetSpent,
    ClientFailed,
    InvalidInput,
    ManentError,
    MissingExtra,
    NotAuthorized,
    ProtocolAbort,
    Refused,
)
from manent.core.examples import Client, Column, Examples, Schema
from manent.core.study import Cohort, Study
from manent.core.training import Constant, CosineDecay, ExponentialDecay, LocalSGD, WarmUp
from manent.core.training.dpsgd import DPSGD
from manent.crypto import InsecureTestRNG
from manent.data import Federation
from manent.engines import Conditions, MLflowLogger, Run, TensorBoardLogger, replay, simulate
from manent.layers import (
    AdaptiveClip,
    CentralNoise,
    Clip,
    CorrelatedNoise,
    Discretize,
    DistributedNoise,
    FixedPoint,
    LocalNoise,
)
from manent.models.files import FittedModel, load_model
from manent.models.numpy import LinearModel, LogisticModel, SoftmaxModel
from manent.privacy import Statement, check
from manent.summation import Plain, SecAgg

if TYPE_CHECKING:
    from manent.models.jax import JaxModel
    from manent.models.sklearn import SklearnModel
    from manent.models.torch import TorchModel

# Models that need an extra are imported when they are used.
_EXTRA = {"TorchModel": "manent.models.torch", "JaxModel": "manent.models.jax", "SklearnModel": "manent.models.sklearn"}


def __getattr__(name: str) -> Any:
    if name in _EXTRA:
        return getattr(import_module(_EXTRA[name]), name)
    raise AttributeError(f"module 'manent' has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "DPSGD",
    "SCAFFOLD",
    "AdaptiveClip",
    "Budget",
    "BudgetSpent",
    "CentralNoise",
    "Client",
    "ClientFailed",
    "Clip",
    "Cohort",
    "Column",
    "Conditions",
    "Constant",
    "CorrelatedNoise",
    "CosineDecay",
    "Discretize",
    "DistributedNoise",
    "Evaluation",
    "Examples",
    "ExponentialDecay",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedDyn",
    "FedNova",
    "FedProx",
    "FedSGD",
    "FedYogi",
    "Federation",
    "FittedModel",
    "FixedPoint",
    "Histogram",
    "InsecureTestRNG",
    "InvalidInput",
    "JaxModel",
    "LinearModel",
    "LocalNoise",
    "LocalSGD",
    "LogisticModel",
    "MLflowLogger",
    "ManentError",
    "Mean",
    "MissingExtra",
    "NotAuthorized",
    "Plain",
    "ProtocolAbort",
    "Refused",
    "Run",
    "Schema",
    "SecAgg",
    "SklearnModel",
    "SoftmaxModel",
    "Statement",
    "Study",
    "TensorBoardLogger",
    "TorchModel",
    "WarmUp",
    "check",
    "data",
    "load_model",
    "replay",
    "simulate",
]
