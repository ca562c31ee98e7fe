"""The clients' side of a simulated sum: an aligned run of the cohort at a time, the same code in every worker."""

from __future__ import annotations

import json
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from manent.core.errors import ClientFailed, InvalidInput, ManentError
from manent.core.examples import Client
from manent.core.protocols import Assignment, ClientContext, Contribution
from manent.core.sums import Partial
from manent.core.vectors import Vector
from manent.crypto.random import SystemRandom
from manent.engines.conditions import Conditions
from manent.engines.memory import ClientMemory
from manent.privacy.check import Plan


@dataclass(frozen=True)
class Unit:
    """An aligned run [index * 2**level, ...) of a cohort's positions, with the clients that stand there.

    Attributes:
        count: positions in the whole cohort.
        clients: indices into the federation, one a position of the run.
        slots: which slot of its memory is current, one a client.
    """

    sum: str
    round: int
    sum_index: int
    level: int
    index: int
    count: int
    clients: tuple[int, ...]
    slots: tuple[int, ...] = ()

    @property
    def positions(self) -> range:
        return range(self.index << self.level, (self.index << self.level) + len(self.clients))


@dataclass(frozen=True)
class UnitAnswer:
    """What came of a unit: its partial sum, which positions answered or dropped out, and the clients' own losses."""

    partial: Partial
    answered: tuple[int, ...]
    lost: tuple[int, ...]
    sent_to: int
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A client that failed, as plain data, so that it can cross a pipe."""

    client: str
    round: int
    stage: str
    reason: str
    folder: str | None

    def error(self) -> ClientFailed:
        return ClientFailed(self.client, self.round, self.stage, self.reason, self.folder)


class ClientSide:
    """Everything that clients do in a simulation."""

    def __init__(
        self,
        plan: Plan,
        clients: tuple[Client, ...],
        seed: int,
        conditions: Conditions,
        memory: ClientMemory | None,
        failures: Path | None,
    ) -> None:
        self.plan, self.clients, self.seed, self.conditions = plan, clients, seed, conditions
        self.memory, self.failures = memory, failures
        self.random = SystemRandom()

    def answer(self, unit: Unit, assignment: Assignment) -> UnitAnswer:
        """Train or measure on each client of a unit, and add up what arrives. Raises ClientFailed."""
        spec = self.plan.sums[unit.sum]
        total = self.plan.summation.init(spec.layout.size, unit.count)
        answered, lost, sent_to = [], [], 0
        losses: list[float] = []
        for position, index, slot in zip(unit.positions, unit.clients, unit.slots or (0,) * len(unit.clients), strict=True):
            client = self.clients[index]
            fate = self.conditions.fate(self.seed, unit.round, unit.sum_index, client.name)
            sent_to += fate.dropped != "before_training"
            if not fate.answers:
                total.skip(position)
                lost.append(position)
                continue
            memory = None if self.memory is None else self.memory.read(index, slot)
            context = ClientContext(client.name, unit.round, self.seed, fate.work)
            contribution = self._one(assignment, client, memory, context)
            vectors = contribution.vector[None]
            for layer in self.plan.study.layers:
                vectors = layer.client(vectors, spec.layout, self.random)
            total.add(position, vectors[0])
            if self.memory is not None and contribution.memory is not None:
                self.memory.stage(index, slot, contribution.memory)
            answered.append(position)
            if "loss" in contribution.probe:
                losses.append(contribution.probe["loss"])
        return UnitAnswer(total.take(unit.level, unit.index), tuple(answered), tuple(lost), sent_to, tuple(losses))

    def _one(self, assignment: Assignment, client: Client, memory: Vector | None, context: ClientContext) -> Contribution:
        stage = assignment.sum
        try:
            (contribution,) = self.plan.study.algorithm.answer(assignment, [client], [memory], [context])
            layout = self.plan.sums[stage].layout
            layout.check_size(contribution.vector)
            tensor = layout.not_finite(contribution.vector)
        except ManentError as error:
            raise self._failed(assignment, client, memory, context, str(error)) from error
        except Exception as error:
            reason = f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            raise self._failed(assignment, client, memory, context, reason) from error
        if tensor is not None:
            reason = (
                f"its vector holds NaN or infinity in {tensor!r}: training diverged. Expected finite numbers; lower the learning "
                f"rate, or set max_grad_norm."
            )
            raise self._failed(assignment, client, memory, context, reason)
        return contribution

    def _failed(
        self, assignment: Assignment, client: Client, memory: Vector | None, context: ClientContext, reason: str
    ) -> ClientFailed:
        folder = None
        if self.failures is not None:
            folder = self.failures / f"round-{context.round:05d}-{assignment.sum}-{_safe(client.name)}"
            keep_inputs(folder, assignment, memory, context, reason)
        return Failure(client.name, context.round, assignment.sum, reason, None if folder is None else str(folder)).error()


def keep_inputs(folder: Path, assignment: Assignment, memory: Vector | None, context: ClientContext, reason: str) -> None:
    """Write what a client was given (not its data), so that `replay` can run it again."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"array.{name}": np.array(array) for name, array in assignment.arrays.items()}
    if memory is not None:
        arrays["memory"] = memory
    save_file(arrays, folder / "inputs.safetensors")
    facts = {"sum": assignment.sum, "context": asdict(context), "reason": reason}
    (folder / "failure.json").write_text(json.dumps(facts, indent=2))


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60]


def failure_of(error: ClientFailed) -> Failure:
    """The plain form of a client's failure."""
    if not isinstance(error, ClientFailed):
        raise InvalidInput(f"Expected a ClientFailed, found {type(error).__name__}.")
    return Failure(error.client, error.round, error.stage, error.reason, error.folder)
