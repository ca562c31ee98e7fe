"""What a module keeps besides its parameters and buffers: attributes, attributes of its classes, and globals that it reads.

A `forward` may write there (a running mean, a counter, a cache). Then what it computes for one example depends on the examples
before it, and for one client on the clients before. So `Network.load` puts attributes back as they were given, and private
training refuses a module that changes anything here while it computes.

| kind of value                                               | how a change is seen                                     |
|-------------------------------------------------------------|----------------------------------------------------------|
| numbers, text, None, types                                  | by type and value                                        |
| tensors, arrays, generators of random numbers               | by their bits                                            |
| lists, dicts, sets, functions with what they close over     | by what is in them                                       |
| other objects                                               | by the state that they give for pickling, else by identity |
| submodules, parameters                                      | by identity; their own attributes count as theirs        |
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import random
import types
from collections import OrderedDict, deque
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_SIMPLE = (bool, int, float, complex, str, bytes, types.NoneType, type, torch.dtype, torch.device, torch.Size)
_OWN = ("_buffers",)  # what `Network` itself puts back


LARGE = 1 << 16
"""Bytes. Larger arrays and tensors are noted by a digest, and looked at once in a pass instead of after each example."""

_CONTAINERS = (dict, OrderedDict, list, set)


@dataclass(frozen=True)
class _Slot:
    """One attribute: who holds it, where, and what it was."""

    owner: str
    holder: MutableMapping[str, Any]
    key: str
    value: Any
    own: bool
    seen: object

    @property
    def simple(self) -> bool:
        """Whether the value cannot change in place."""
        return _fixed(self.value)

    @property
    def large(self) -> bool:
        """Whether looking at the value takes long."""
        return isinstance(self.value, Tensor | np.ndarray) and self.value.nbytes > LARGE

    def same(self) -> bool:
        """Whether the attribute is as it was."""
        now = self.holder.get(self.key, self)
        if type(now) is not type(self.value):
            return False
        if now is self.value and self.simple:
            return True
        if not self.seen:  # it was empty
            return not now
        return _noted(now) == self.seen


class Kept:
    """What one module and its loss keep, as it was when this object was made."""

    def __init__(self, module: nn.Module, loss: object = None) -> None:
        own = list(module.named_modules())
        outside = [(f"loss {name}".rstrip(), part) for name, part in _modules_of(loss)]
        parts = [*own, *outside]
        # Modules and tensors of a module are the same objects in every copy.
        self._fixed = {id(part): part for _, part in parts} | {id(t): t for t in (*module.parameters(), *module.buffers())}
        slots = [*_slots(own, _OWN), *_slots(outside, ())]
        self._simple = [(slot.holder, slot.key, slot.value, slot) for slot in slots if slot.simple]
        self._empty = [(slot.holder, slot.key, slot.value, slot) for slot in slots if slot.seen == ()]
        self._deep = [slot for slot in slots if not slot.simple and slot.seen != ()]
        self._beside = [*_beside(parts), *_closed(loss)]
        self._names = [
            (_title(name, part), kind, holder, set(holder))
            for name, part in parts
            for kind, holder in (("attribute", part.__dict__), ("buffer", part._buffers))
        ]
        self._copied = self._copy({number: slot.value for number, slot in enumerate(self._deep)})

    def restore(self) -> None:
        """Puts every attribute of the module and its parts back as it was."""
        for _, _, holder, names in self._names:
            if holder.keys() != names:
                for name in holder.keys() - names:
                    del holder[name]
        for holder, key, value, slot in self._simple:
            if holder.get(key, slot) is not value:
                holder[key] = value
        for holder, key, value, slot in self._empty:
            if value or holder.get(key, slot) is not value:
                value.clear()
                holder[key] = value
        fresh: dict[int, Any] | None = None
        for number, slot in enumerate(self._deep):
            if not slot.same():
                fresh = self._copy(self._copied) if fresh is None else fresh
                slot.holder[slot.key] = fresh[number]

    def changed(self, thorough: bool = True) -> str | None:
        """The first attribute that is not as it was, such as "'1.inside' (Centred) keeps its attribute 'mean'"; else None.

        If not `thorough`, large arrays and tensors are passed over.
        """
        for owner, kind, holder, names in self._names:
            if holder.keys() != names:
                return f"{owner} keeps its {kind} {min(holder.keys() ^ names)!r}"
        for holder, key, value, slot in self._simple:
            if holder[key] is not value and not slot.same():
                return f"{slot.owner} keeps its attribute {key!r}"
        for holder, key, value, slot in self._empty:
            if value or (holder[key] is not value and not slot.same()):
                return f"{slot.owner} keeps its attribute {key!r}"
        for slot in (*self._deep, *self._beside):
            if (thorough or not slot.large) and not slot.same():
                return f"{slot.owner} keeps {'its attribute ' if slot.own else ''}{slot.key!r}"
        return None

    def _copy(self, values: dict[int, Any]) -> dict[int, Any]:
        return copy.deepcopy(values, dict(self._fixed))


def _fixed(value: object) -> bool:
    return isinstance(value, _SIMPLE) or (type(value) is tuple and all(map(_fixed, value)))


def _slots(parts: list[tuple[str, nn.Module]], without: tuple[str, ...]) -> list[_Slot]:
    """The attributes of modules, but for some names."""
    return [_slot(_title(name, part), part.__dict__, key) for name, part in parts for key in part.__dict__ if key not in without]


def _closed(loss: object) -> list[_Slot]:
    """What a loss that is no module closes over, and the globals that it names."""
    if not callable(loss) or isinstance(loss, nn.Module):
        return []
    within = _slot("The loss", {"what it closes over": loss}, "what it closes over", False)
    return [within, *(_globals("The loss", loss, set()) if inspect.isfunction(loss) else ())]


def _modules_of(loss: object) -> list[tuple[str, nn.Module]]:
    return list(loss.named_modules()) if isinstance(loss, nn.Module) else []


def _title(name: str, part: nn.Module) -> str:
    return f"{name!r} ({type(part).__name__})" if name else f"The network ({type(part).__name__})"


def _slot(owner: str, holder: MutableMapping[str, Any], key: str, own: bool = True) -> _Slot:
    value = holder[key]
    return _Slot(owner, holder, key, value, own, _noted(value))


def _noted(value: Any) -> object:
    """As `_seen`; () for an empty container, and quickly for a module's parts."""
    if type(value) in _CONTAINERS:
        if not value:
            return ()
        if type(value) is dict and all(isinstance(v, nn.Parameter | nn.Module | None) for v in value.values()):
            return tuple(value), tuple(map(id, value.values()))
    return _seen(value)


def _beside(parts: list[tuple[str, nn.Module]]) -> Iterator[_Slot]:
    """Attributes of the modules' own classes, and globals that their functions name."""
    done: set[int] = set()
    for name, part in parts:
        for kind in type(part).__mro__:
            if kind.__module__.partition(".")[0] in ("torch", "builtins") or id(kind) in done:
                continue
            done.add(id(kind))
            title = _title(name, part)
            for key, value in list(vars(kind).items()):
                if inspect.isfunction(value):
                    yield from _globals(title, value, done)
                elif not key.startswith("__") and not callable(value) and not inspect.isdatadescriptor(value):
                    yield _slot(f"{title} in its class", vars(kind), key)  # type: ignore[arg-type]


def _globals(title: str, function: types.FunctionType, done: set[int]) -> Iterator[_Slot]:
    """The globals that a function names, and those of the functions of the same file that it names."""
    if id(function) in done:
        return
    done.add(id(function))
    for key in function.__code__.co_names:
        value = function.__globals__.get(key)
        if inspect.isfunction(value) and value.__module__ == function.__module__:
            yield from _globals(title, value, done)
        elif value is not None and not inspect.ismodule(value) and not callable(value):
            yield _slot(f"{title} through a global", function.__globals__, key, False)


def _seen(value: Any, within: tuple[int, ...] = ()) -> object:
    """Something that is equal for equal contents, and keeps no reference to them."""
    if isinstance(value, _SIMPLE):
        return type(value), repr(value) if isinstance(value, float | complex) else value
    if id(value) in within:
        return "again", within.index(id(value))
    inner = (*within, id(value))
    if isinstance(value, nn.Parameter | nn.Module) or inspect.ismodule(value):
        return id(value)
    if isinstance(value, Tensor):
        return _bits(value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, _short(value) if value.dtype != object else _seen(value.tolist(), inner)
    if isinstance(value, dict):
        return type(value), tuple((_seen(k, inner), _seen(v, inner)) for k, v in value.items())
    if isinstance(value, list | tuple | deque):
        return type(value), tuple(_seen(v, inner) for v in value)
    if isinstance(value, set | frozenset):
        return type(value), frozenset(_seen(v, inner) for v in value)
    return _seen_object(value, inner)


def _seen_object(value: Any, inner: tuple[int, ...]) -> object:
    if isinstance(value, torch.Generator):
        return _bits(value.get_state())
    if isinstance(value, types.MethodType):
        return id(value.__func__), _seen(value.__self__, inner)
    if isinstance(value, types.FunctionType):
        cells = [_cell(cell) for cell in value.__closure__ or ()]
        return id(value.__code__), _seen([cells, value.__defaults__, value.__kwdefaults__, vars(value)], inner)
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return id(value), None if frame is None else (frame.f_lasti, _seen(dict(frame.f_locals), inner))
    if isinstance(value, random.Random):
        return hash(value.getstate())
    if callable(getattr(value, "__reduce_ex__", None)) and not isinstance(value, types.BuiltinFunctionType):
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001 - what cannot be pickled may raise anything
            return type(value), id(value)
        if isinstance(reduced, str):
            return reduced
        made, given, *rest = reduced
        # Items of lists and dicts of one's own come as iterators.
        state = [list(part) if isinstance(part, Iterator) else part for part in rest]
        return type(value), id(made), _seen([given, state], inner)
    return type(value), id(value)


def _cell(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _bits(tensor: Tensor) -> object:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "a tensor of a transformation", id(tensor)
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return id(tensor)
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return tensor.dtype, tuple(tensor.shape), _short(plain.view(torch.uint8).numpy()) if plain.numel() else b""


def _short(array: np.ndarray[Any, Any]) -> bytes:
    bits = array.tobytes()
    return bits if len(bits) <= LARGE else hashlib.blake2b(bits).digest()
