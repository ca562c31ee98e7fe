"""Taking the masks off a sum, in parallel. Every thread has one vector of its own, whatever the size of the cohort."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from manent.core.errors import ProtocolAbort
from manent.core.vectors import Array
from manent.crypto.keystream import Masker
from manent.crypto.seal import unseal
from manent.crypto.shamir import recover
from manent.summation.secagg import keys
from manent.summation.secagg.bodies import Advert, Parcel
from manent.summation.secagg.terms import CHACHA, Call

_AT_ONCE = 32  # pairs in a task: they share the cost of making keys from a root


@dataclass(frozen=True)
class Known:
    """What the server knows once the survivors have opened their shares.

    Attributes:
        adverts: by position.
        shared: the positions whose shares were delivered. Everyone who uploaded has masked with its neighbours among them.
        alive: the positions whose uploads are in the sum.
        seeds: by position, the own seed of each client that answered to the end.
        opened: the share that the first position opened of the second one's secret.
        parcel: the record of Shares from the first position to the second.
    """

    call: Call
    adverts: Mapping[int, Advert]
    shared: frozenset[int]
    alive: frozenset[int]
    seeds: Mapping[int, bytes]
    opened: Callable[[int, int], bytes]
    parcel: Callable[[int, int], Parcel]

    @property
    def context(self) -> bytes:
        """Of the attempt, 32 bytes."""
        return self.call.context


def unmask(running: Array, known: Known, threads: int) -> Array:
    """The sum of the survivors' vectors. It takes the place of the sum of their uploads, lanes [d].

    Raises ProtocolAbort where a secret cannot be rebuilt, or does not fit what its owner committed itself to.
    """
    tasks = _tasks(known)
    if threads <= 1 or len(tasks) < 2:
        _work(running, known, tasks)
        return running
    parts = [running] + [np.zeros_like(running) for _ in range(threads - 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: _work(part, known, tasks), parts))
    for part in parts[1:]:
        running += part
    return running


class _Task(Protocol):
    """Some of the masks that are left."""

    def take_off(self, total: Array, known: Known, masker: Masker) -> None:
        """Take them off the lanes [d], in place."""
        ...


@dataclass(frozen=True)
class _Own:
    """A survivor's own mask."""

    seed: bytes

    def take_off(self, total: Array, known: Known, masker: Masker) -> None:
        masker.subtract(total, keys.own_mask_key(self.seed, known.context))


@dataclass(frozen=True)
class _Pairs:
    """What is left of a vanished client's masks with some of its neighbours."""

    gone: int
    root: bytes
    neighbours: tuple[int, ...]

    def take_off(self, total: Array, known: Known, masker: Masker) -> None:
        gone, context, hybrid = self.gone, known.context, known.call.terms.hybrid
        mask = keys.agreement_key(self.root, "mask", context)
        kem = keys.encapsulation_key(self.root, "mask", context) if hybrid else None
        for v in self.neighbours:
            agreed = mask.agree(known.adverts[v].mask)
            if kem is not None and v < gone:
                agreed += kem.decapsulate(known.parcel(v, gone).mask_text)
            elif kem is not None:
                kept = known.parcel(gone, v).kept
                agreed += unseal(keys.kept_key(self.root, context, v), kept, keys.kept_label(context, gone, v))
            key = keys.mask_key(agreed, context, v, gone)
            (masker.subtract if v < gone else masker.add)(total, key)


def _tasks(known: Known) -> deque[_Task]:
    """Every mask that is left, in tasks that do not depend on each other."""
    tasks: deque[_Task] = deque()
    for gone in sorted(known.shared - known.alive):
        near = tuple(v for v in known.call.neighbours(gone) if v in known.alive)
        if near:
            root = _root(known, gone)
            tasks.extend(_Pairs(gone, root, near[i : i + _AT_ONCE]) for i in range(0, len(near), _AT_ONCE))
    tasks.extend(_Own(_seed(known, position)) for position in sorted(known.alive))
    return tasks


def _seed(known: Known, position: int) -> bytes:
    """A survivor's own seed: the one it opened, or the one rebuilt from shares where it opened none, or not the committed one."""
    committed = known.adverts[position].commitment

    def right(seed: bytes) -> bool:
        return keys.commitment(known.context, seed) == committed

    if position in known.seeds and right(known.seeds[position]):
        return known.seeds[position]
    return _rebuilt(known, position, right)


def _root(known: Known, position: int) -> bytes:
    """The root of a client that vanished, rebuilt from shares and checked against its adverts' mask keys."""
    advertised = known.adverts[position]

    def right(root: bytes) -> bool:
        if keys.agreement_key(root, "mask", known.context).public != advertised.mask:
            return False
        hybrid = known.call.terms.hybrid
        return not hybrid or keys.encapsulation_key(root, "mask", known.context).public == advertised.mask_kem

    return _rebuilt(known, position, right)


def _rebuilt(known: Known, position: int, right: Callable[[bytes], bool]) -> bytes:
    """The secret that is right, from the shares that the neighbours opened. Raises ProtocolAbort for too few, or wrong ones."""
    threshold = known.call.terms.threshold
    shares = {1 + v: known.opened(v, position) for v in known.call.neighbours(position) if v in known.seeds}
    if len(shares) < threshold:
        raise ProtocolAbort(f"{len(shares)} shares of position {position} were opened; {threshold} are needed. No sum is formed.")
    return recover(shares, threshold, right)


def _work(total: Array, known: Known, tasks: deque[_Task]) -> None:
    """Carry out tasks until there are none."""
    masker = Masker(total.dtype, "chacha20" if known.call.terms.suite == CHACHA else "aes-256-ctr")
    while True:
        try:
            task = tasks.popleft()
        except IndexError:
            return
        task.take_off(total, known, masker)
