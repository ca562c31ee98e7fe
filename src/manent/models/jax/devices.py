"""The devices that JAX computes on: CPU devices of one thread each, one for each program that runs at the same time."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from heapq import heappop, heappush
from typing import Any

import jax

try:
    from jaxlib import xla_client
except ImportError:  # pragma: no cover
    xla_client = None  # type: ignore[assignment]

SINGLE = ("PJRT_NPROC", "NPROC")  # JAX reads them when it makes a pool of threads


class Devices:
    """CPU devices, each with a pool of one thread. The first is JAX's own.

    With its usual pool, JAX gives several threads to each small product of matrices, and they wait for each other: it takes half
    as long again on idle processors, and many times as long on busy ones. With a single device of one thread, programs would wait
    for each other, because JAX runs any program with more than a few operations in the device's pool. So each program gets a
    device to itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._more: list[Any] = []
        self._free = [0]

    @cached_property
    def first(self) -> Any:
        """JAX's own device. It has one thread, unless something else started JAX before; then a warning says so."""
        try:
            jax.config.update("jax_num_cpu_devices", 1)  # type: ignore[no-untyped-call]
        except RuntimeError:
            warnings.warn(
                "JAX was started before manent.JaxModel was imported, so its products of matrices share one pool of threads. "
                "Results are the same, but simulations take longer: import JaxModel before JAX computes anything.",
                stacklevel=2,
            )
            return jax.local_devices(backend="cpu")[0]
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]
        with _single():
            return jax.local_devices(backend="cpu")[0]

    @contextmanager
    def one(self) -> Iterator[int]:
        """The number of a device that no one else uses inside the block: the lowest, so that few devices are made."""
        with self._lock:
            number = heappop(self._free) if self._free else self._another()
        try:
            yield number
        finally:
            with self._lock:
                heappush(self._free, number)

    def __getitem__(self, number: int) -> Any:
        """The device of a number that `one` gave."""
        return self._more[number - 1] if number else self.first

    def _another(self) -> int:
        make: Any = getattr(xla_client, "make_cpu_client", None)
        if make is None:  # pragma: no cover - in a JAX without it, programs share a device and wait
            return 0
        with _single():
            self._more.append(make(asynchronous=False).local_devices()[0])
        return len(self._more)


@contextmanager
def _single() -> Iterator[None]:
    """Pools of threads that are made inside the block have one thread."""
    before = {name: os.environ.get(name) for name in SINGLE}
    os.environ.update(dict.fromkeys(SINGLE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


DEVICES = Devices()
