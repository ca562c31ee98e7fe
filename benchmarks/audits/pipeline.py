"""What the real layers give: the client halves of a plan's stack on clients' vectors, their sum, and the server half on it.

Nothing here draws noise, clips or rounds. A study is resolved as an engine does, its cohort draws who is asked, and its stack
does the rest. What an observer knows is then put side by side, as features:

| observer | sees |
|---|---|
| public | what is released |
| a client | also its own vector as it was sent, with its own noise or share of it |
| colluders | also those of the others with whom it colludes |
| the server | where the summation hides vectors, the total; else every vector as it was sent |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import manent as mn
from audits.bounds import Samples, Worlds
from audits.give import federation
from manent.crypto import SystemRandom
from manent.privacy import Plan, resolve

Rows = NDArray[np.float32]
RANDOM = SystemRandom()
_ROWS = 1 << 14  # that go through the client halves at a time


def plan_of(study: mn.Study, clients: int, size: int) -> Plan:
    """The plan for so many clients with vectors of this size. Raises Refused where there is no honest statement."""
    return resolve(study, federation(np.zeros((clients, size))))


@dataclass(frozen=True)
class Releases:
    """Independent releases of one sum.

    Attributes:
        totals: [releases, d], as released.
        after: [releases, s], what of the stack's next state is told to clients; s may be 0.
        sent: by a client's place, counted from the last (-1), [releases, d]: its vector as it was sent, brought back to the unit
            of vectors; zeros where it was not asked.
    """

    totals: Samples
    after: Samples
    sent: dict[int, Samples]


def client_half(plan: Plan, rows: Rows) -> NDArray[np.int64]:
    """int64[k, d'], vectors as they are summed."""
    stack = plan.stacks["train"]
    told = stack.sends(stack.init())
    parts = [stack.client(rows[at : at + _ROWS].copy(), told, RANDOM) for at in range(0, len(rows), _ROWS)]
    return np.concatenate(parts)


def server_half(plan: Plan, totals: NDArray[np.int64]) -> tuple[Samples, Samples]:
    """[releases, d] as released, and [releases, s] of the next state that clients are told, as logarithms."""
    stack = plan.stacks["train"]
    first, released, after = stack.init(), [], []
    for total in totals:
        found, state = stack.server(total, first, RANDOM)
        released.append(found)
        after.append([np.log(float(array[0])) for array in stack.sends(state).values()])
    return np.array(released, np.float64), np.array(after, np.float64).reshape(len(totals), -1)


def releases(plan: Plan, vectors: Rows, count: int, wanted: Iterable[int] = ()) -> Releases:
    """So many releases over clients with these vectors [n, d], each with a cohort of its own.

    Args:
        wanted: the clients whose vectors as they were sent are kept, counted from the last (-1).
    """
    clients, rng = len(vectors), np.random.default_rng(int(RANDOM.words(1)[0]))
    cohort = plan.study.cohort
    everyone = cohort.size is None and cohort.sampling_probability is None
    asked = [tuple(range(clients)) if everyone else cohort.draw(clients, rng) for _ in range(count)]
    which = np.concatenate([np.array(members, np.int64) for members in asked])
    release = np.repeat(np.arange(count), [len(members) for members in asked])
    rows = client_half(plan, vectors[which]) if len(which) else np.zeros((0, plan.stacks["train"].layout.size), np.int64)
    totals = np.zeros((count, rows.shape[1]), np.int64)
    np.add.at(totals, release, rows)
    made, after = server_half(plan, totals)
    sent = {}
    for place in wanted:
        own = which == clients + place
        sent[place] = np.zeros(made.shape)
        sent[place][release[own]] = server_half(plan, rows[own])[0]
    return Releases(made, after, sent)


def spread_canary(size: int, norm: float, order: int) -> Rows:
    """float32[size], a vector beyond the clip norm, with as much in its last block as in its first."""
    canary = np.zeros(size, np.float32)
    canary[0] += 1.0
    canary[-1] += 1.0
    return (10 * norm * canary / np.linalg.norm(canary, order)).astype(np.float32)


def two_worlds(relation: str, clients: int, canary: Rows, others: Rows | None = None) -> tuple[Rows, Rows]:
    """Two neighbouring federations' vectors, [n, d]. The first client is the one that differs, the others send zeros."""
    one = np.zeros((clients, len(canary)), np.float32) if others is None else np.tile(others, (clients, 1))
    one[0] = canary
    other = one.copy()
    if relation == "add_or_remove":
        return one, other[1:]
    other[0] = -canary if relation == "replace_one" else 0
    return one, other


def known_clients(observer: str, clients: int, colluding: int, hidden: bool) -> list[int] | None:
    """Whose vectors an observer has as they were sent, counted from the last (-1); None where this audit does not know it.

    Args:
        colluding: how many collude, where anybody does.
        hidden: whether the summation hides vectors from the server.
    """
    words, own = observer.lower(), [-place for place in range(1, clients)]
    if "public" in words:
        return []
    if "server" in words and not hidden:
        return [-place for place in range(1, clients + 1)]
    if "collu" in words:
        return own[: max(1, colluding)]
    if "client" in words:
        return own[:1]
    return [] if "server" in words else None


def seen(found: Releases, direction: Samples, known: Sequence[int]) -> Samples:
    """[releases, features]: all that is known, projected on the direction in which the worlds differ."""
    columns = [found.totals @ direction, *found.after.T]
    columns += [found.sent[place] @ direction for place in known]
    return np.stack(columns, axis=1)


def wide(plan: Plan, norm: float, order: int, relation: str, rounds: Sequence[int], of: int, count: int) -> Worlds:
    """Canaries of one coordinate each, for noise that the server draws, independently and alike for every coordinate.

    In the world of a coordinate its canary sends that coordinate alone, at the clip norm; every even one is in that world, every
    odd one in the neighbouring world. So one release of d coordinates has d / 2 samples of each world. What the client half
    makes of such a vector is taken from the client half, for canaries in every part of the vector.

    Args:
        rounds: in which of the `of` rounds the canary takes part. An observer sees the releases of all rounds.
        count: samples of each world.
    """
    stack = plan.stacks["train"]
    size = stack.given.size
    places = np.unique(np.linspace(0, size - 1, 24).astype(np.int64))
    rows = np.zeros((len(places), size), np.float32)
    rows[np.arange(len(places)), places] = 3 * norm
    made, gone = client_half(plan, rows), client_half(plan, -rows if relation == "replace_one" else 0 * rows)
    assert (np.count_nonzero(made, axis=1) == 1).all(), "a canary of one coordinate stays one"
    ins, outs = (rows[np.arange(len(places)), places] for rows in (made, gone))
    totals = np.where(np.arange(size) % 2 == 0, ins.max(), outs.min()).astype(np.int64)
    one, other = [], []
    for _ in range(-(-2 * count // size)):
        state, found = stack.init(), []
        for number in range(1, of + 1):
            stack.check_round(state, number)
            total, state = stack.server(totals.copy() if number in rounds else np.zeros(size, np.int64), state, RANDOM)
            found.append(total)
        table = np.stack(found, axis=1)
        one.append(table[::2])
        other.append(table[1::2])
    return Worlds(np.concatenate(one), np.concatenate(other), "gaussian" if order == 2 else "any")
