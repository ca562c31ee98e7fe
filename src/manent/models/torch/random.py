"""Torch's generators of random numbers, seeded for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, needed: bool = True, device: torch.device | None = None) -> Iterator[None]:
    """Seeds torch's generators, of the CPU and the device, inside the block. Afterwards they are as before.

    Args:
        seed: any whole number; it is taken modulo 2^63.
        needed: False does nothing.
        device: the GPU whose generator is seeded too, or None.
    """
    if not needed:
        yield
        return
    if device is not None and device.type == "cuda":
        with torch.random.fork_rng([device]):
            torch.manual_seed(seed % 2**63)
            yield
        return
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(seed % 2**63)
        yield
    finally:
        generator.set_state(state)
