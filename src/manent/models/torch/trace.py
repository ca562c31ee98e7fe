"""The order of a module's layers, where its `forward` calls them one after another. It is found by symbolic tracing.

Tracing runs the `forward`, so a copy is traced: stand-ins for tensors must not stay in what the module keeps. It sees what is
done to the input, but not what else a `forward` depends on. So a chain counts only if it is the same in training and in
evaluation, changes nothing that the module keeps, uses each parameter once and in the order in which the module lists them, and
has only known layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from manent.models.torch.random import seeded
from manent.models.torch.state import Kept

_FLATTEN = {"start_dim": 1, "end_dim": -1}
_POOL = ("kernel_size", "stride", "padding", "dilation")


def traced(module: nn.Module) -> list[nn.Module] | None:
    """The layers in order; None where the module is not a straight line of known layers."""
    try:
        copied = copy.deepcopy(module)
    except (RuntimeError, TypeError):
        return None
    kept, chains = Kept(copied), []
    with seeded(0):
        for mode in (True, False):
            copied.train(mode)
            chains.append(_chain(copied, module))
    copied.train(module.training)
    first, second = chains
    if kept.changed() is not None:  # the forward does more than call layers
        return None
    if first is None or second is None or list(map(_identity, first)) != list(map(_identity, second)):
        return None
    used = [id(parameter) for layer in first for parameter in layer.parameters()]
    return first if used == [id(parameter) for parameter in module.parameters()] else None


def _chain(copied: nn.Module, module: nn.Module) -> list[nn.Module] | None:
    try:
        graph = fx.Tracer().trace(copied)
    except Exception:  # noqa: BLE001 - a forward may do anything that tracing cannot follow
        return None
    layers: list[nn.Module] = []
    before: fx.Node | None = None
    for node in graph.nodes:
        if node.op == "placeholder" and before is None:
            before = node
        elif node.op == "output":
            return layers if node.args == (before,) else None
        else:
            layer = _layer(module, node)
            if layer is None or before is None or not node.args or node.args[0] is not before or len(before.users) != 1:
                return None
            layers.append(layer)
            before = node
    return None


def _layer(module: nn.Module, node: fx.Node) -> nn.Module | None:
    """The layer that a node stands for; None where it is not known. A functional call becomes a module."""
    if node.op == "call_module":
        return module.get_submodule(str(node.target)) if len(node.args) == 1 and not node.kwargs else None
    if node.op not in ("call_function", "call_method"):
        return None
    make = _FUNCTIONS.get(node.target)
    return None if make is None else make(node.args[1:], node.kwargs)


def _relu(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module | None:
    return nn.ReLU() if not args and set(kwargs) <= {"inplace"} else None


def _flatten(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module | None:
    given = {"start_dim": 0, "end_dim": -1, **dict(zip(_FLATTEN, args, strict=False)), **kwargs}
    return nn.Flatten() if given == _FLATTEN else None


def _max_pool(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module | None:
    given = {**dict(zip(_POOL, args, strict=False)), **kwargs}
    given = {name: value for name, value in given.items() if value is not False and value is not None}
    plain = len(args) <= len(_POOL) and set(given) <= set(_POOL) and all(isinstance(v, int | tuple) for v in given.values())
    return nn.MaxPool2d(**given) if plain and "kernel_size" in given else None


_FUNCTIONS: dict[Any, Callable[[tuple[Any, ...], Mapping[str, Any]], nn.Module | None]] = {
    functional.relu: _relu,
    torch.relu: _relu,
    "relu": _relu,
    torch.flatten: _flatten,
    "flatten": _flatten,
    functional.max_pool2d: _max_pool,
}


def _identity(layer: nn.Module) -> object:
    """Equal for the same layer; for layers without weights, equal if they do the same."""
    return id(layer) if list(layer.parameters()) else (type(layer), repr(layer))
