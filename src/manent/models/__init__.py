"""Models: parametrised functions as flat vectors, with a file or folder for each framework. A framework loads on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manent.models.files import FittedModel as FittedModel
    from manent.models.files import load_model as load_model
    from manent.models.jax import JaxModel as JaxModel
    from manent.models.numpy import LinearModel as LinearModel
    from manent.models.numpy import LogisticModel as LogisticModel
    from manent.models.numpy import SoftmaxModel as SoftmaxModel
    from manent.models.sklearn import SklearnModel as SklearnModel
    from manent.models.torch import TorchModel as TorchModel

_HOME = {
    "FittedModel": "files",
    "load_model": "files",
    "JaxModel": "jax",
    "LinearModel": "numpy",
    "LogisticModel": "numpy",
    "SoftmaxModel": "numpy",
    "SklearnModel": "sklearn",
    "TorchModel": "torch",
}

__all__ = ["FittedModel", "JaxModel", "LinearModel", "LogisticModel", "SklearnModel", "SoftmaxModel", "TorchModel", "load_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
