"""The clients' side of a simulated sum: an aligned run of the cohort at a time, the same code in every worker."""

from __future__ import annotations

import json
import math
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from manent.core.errors import ClientFailed, InvalidInput, ManentError
from manent.core.examples import Client
from manent.core.protocols import Assignment, ClientContext, Contribution
from manent.core.randomness import PrivateRandom
from manent.core.sums import Partial, TreeSum
from manent.core.vectors import Array, Vector
from manent.crypto.random import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.engines.conditions import Conditions
from manent.engines.memory import ClientMemory
from manent.privacy.check import Plan

MOST_KEPT = 20
"""Failures of a run whose inputs are kept, about: where failing clients send zeros, there may be many."""


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
    """What came of a unit: its partial sum, which positions answered or dropped out, and the clients' own losses.

    Attributes:
        failures: of those who answered zeros because their code raised; no server can know them.
    """

    partial: Partial
    answered: tuple[int, ...]
    lost: tuple[int, ...]
    sent_to: int
    losses: tuple[float, ...] = ()
    failures: tuple[ClientFailed, ...] = ()


@dataclass(frozen=True)
class _Asked:
    """A client that will answer: where it stands, and where its memory lies."""

    position: int
    index: int
    slot: int
    client: Client
    context: ClientContext


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
        random: PrivateRandom | None = None,
    ) -> None:
        self.plan, self.clients, self.seed, self.conditions = plan, clients, seed, conditions
        self.memory, self.failures = memory, failures
        self.random = random or SystemRandom()
        self.draws = ExactDraws(self.random)
        self._totals: dict[tuple[str, int], TreeSum] = {}
        self._hidden: list[ClientFailed] = []

    def twin(self) -> ClientSide:
        """Another that shares everything but its buffers, for another thread."""
        return ClientSide(self.plan, self.clients, self.seed, self.conditions, self.memory, self.failures)

    @property
    def together(self) -> int:
        """How many clients the study's algorithm takes in one call."""
        return int(getattr(self.plan.study.algorithm, "together", 1))

    def answer(self, unit: Unit, assignment: Assignment, out: Array | None = None) -> UnitAnswer:
        """Train or measure on each client of a unit, and add up what arrives, into `out` where given. Raises ClientFailed."""
        self._hidden = []
        asked, lost, sent_to = self._asked(unit)
        total = self._total(unit)
        for position in lost:
            total.skip(position)
        losses: list[float] = []
        for start in range(0, len(asked), self.together):
            group = asked[start : start + self.together]
            for one, contribution in zip(group, self._answers(assignment, group), strict=True):
                try:
                    self._add(total, one, contribution, assignment)
                except ManentError as error:  # a layer refuses what the client would send
                    raise self._failed(assignment, one, str(error)) from error
                if math.isfinite(contribution.probe.get("loss", math.nan)):
                    losses.append(contribution.probe["loss"])
        part = total.take(unit.level, unit.index, out)
        answered = tuple(one.position for one in asked)
        return UnitAnswer(part, answered, tuple(lost), sent_to, tuple(losses), tuple(self._hidden))

    def _asked(self, unit: Unit) -> tuple[list[_Asked], list[int], int]:
        """Who of a unit will answer, the positions of those who will not, and to how many the assignment went."""
        asked, lost, sent_to = [], [], 0
        for position, index, slot in zip(unit.positions, unit.clients, unit.slots or (0,) * len(unit.clients), strict=True):
            client = self.clients[index]
            fate = self.conditions.fate(self.seed, unit.round, unit.sum_index, client.name)
            sent_to += fate.dropped != "before_training"
            if not fate.answers:
                lost.append(position)
                continue
            context = ClientContext(client.name, unit.round, self.seed, fate.work, self.draws)
            asked.append(_Asked(position, index, slot, client, context))
        return asked, lost, sent_to

    def _kept(self, one: _Asked) -> Vector | None:
        """What a client has kept for the algorithm. It is read when its turn comes, for a unit may be long."""
        if self.memory is None or not self.plan.own:
            return None
        return self.memory.read(one.index, one.slot)[: self.plan.own]

    def _total(self, unit: Unit) -> TreeSum:
        """An empty sum for a cohort of this size; one is kept, for its buffers."""
        key = unit.sum, unit.count
        if key not in self._totals:
            stack = self.plan.stacks[unit.sum]
            self._totals = {key: TreeSum(stack.layout.size, unit.count, stack.dtype)}
        return self._totals[key]

    def _add(self, total: TreeSum, one: _Asked, contribution: Contribution, assignment: Assignment) -> None:
        """The client's halves of the layers, and the only crossing. What is not private ends here."""
        stack, vectors, part = self.plan.stacks[assignment.sum], contribution.vector[None], self.plan.kept.get(assignment.sum)
        row = None if self.memory is None else self._next(self.memory, one, contribution)
        if row is None or part is None:
            vectors = stack.client(vectors, assignment.arrays, self.random)
        else:
            vectors, row[None, part] = stack.remember(vectors, row[None, part], assignment.arrays, self.random)
        total.add(one.position, vectors[0])
        if self.memory is not None and row is not None:
            self.memory.stage(one.index, one.slot, row)

    def _next(self, memory: ClientMemory, one: _Asked, contribution: Contribution) -> Vector:
        """What a client is to keep, before the layers: where the algorithm says nothing, what it had.

        It is the whole row, for that of everyone in the released sum becomes current.
        """
        if contribution.memory is not None and not self.plan.kept:
            return contribution.memory
        row = memory.read(one.index, one.slot)
        if contribution.memory is not None:
            row[: self.plan.own] = contribution.memory
        return row

    def _answers(self, assignment: Assignment, group: list[_Asked]) -> Sequence[Contribution]:
        """The contributions of some clients, checked. Where one of several fails, each is asked by itself, to name it.

        Raises ClientFailed; but in a sum with noise a client that fails sends zeros, see `_instead`.
        """
        try:
            found = self.plan.study.algorithm.answer(
                assignment, [one.client for one in group], [self._kept(one) for one in group], [one.context for one in group]
            )
            if len(found) != len(group):
                raise InvalidInput(f"answer() gave {len(found)} contributions for {len(group)} clients.")
            found = [self._checked(assignment, one, contribution) for one, contribution in zip(group, found, strict=True)]
        except Exception as error:
            if len(group) > 1:
                return [contribution for one in group for contribution in self._answers(assignment, [one])]
            known = isinstance(error, ManentError)
            reason = str(error) if known else f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
            failed = self._failed(assignment, group[0], reason)
            if self.plan.stacks[assignment.sum].noise is None:
                raise failed from error
            return [self._instead(assignment, group[0], failed)]
        return found

    def _instead(self, assignment: Assignment, one: _Asked, failed: ClientFailed) -> Contribution:
        """Zeros, from a client whose own code raised: that it failed, or did not answer, would tell something of its data.

        Only its own operator is told, and the client keeps the memory that it had. The simulation, which knows all clients,
        stops where every one of a sum failed, as a mistake in the study would otherwise hide; no deployment could.
        """
        self._hidden.append(failed)
        kept = f" Its inputs are kept in {failed.folder} (see manent.replay)." if failed.folder else ""
        reason = failed.reason.splitlines()[0] if failed.reason else "no reason given"
        warnings.warn(f"{one.client.name}: {reason}; zeros are sent instead.{kept}", stacklevel=2)
        return Contribution(np.zeros(self.plan.sums[assignment.sum].layout.size, np.float32), self._kept(one))

    def _checked(self, assignment: Assignment, one: _Asked, contribution: Contribution) -> Contribution:
        """The contribution, where it fits its layout. One that is not finite is an error; but behind a clip it sends zeros.

        There a failure would itself tell something of the data: only the client is told, and keeps the memory that it had.
        """
        layout, kept = self.plan.sums[assignment.sum].layout, contribution.memory
        layout.check_size(contribution.vector)
        if kept is not None and kept.shape != (self.plan.own,):
            raise InvalidInput(f"It is to keep an array of shape {kept.shape}; its algorithm declares {self.plan.own} numbers.")
        tensor = layout.not_finite(contribution.vector)
        if tensor is None:
            return contribution
        if self.plan.stacks[assignment.sum].clips:
            warnings.warn(f"{one.client.name}: {tensor!r} holds NaN or infinity; zeros are sent instead.", stacklevel=2)
            return replace(contribution, vector=np.zeros_like(contribution.vector), memory=self._kept(one))
        raise InvalidInput(
            f"its vector holds NaN or infinity in {tensor!r}: training diverged. Expected finite numbers; lower the learning "
            f"rate, or set max_grad_norm."
        )

    def _failed(self, assignment: Assignment, one: _Asked, reason: str) -> ClientFailed:
        folder, context = None, one.context
        if self.failures is not None and not (self.failures.is_dir() and len(list(self.failures.iterdir())) >= MOST_KEPT):
            folder = self.failures / f"round-{context.round:05d}-{assignment.sum}-{_safe(one.client.name)}"
            keep_inputs(folder, assignment, self._kept(one), context, reason)
        return ClientFailed(one.client.name, context.round, assignment.sum, reason, str(folder) if folder else None)


def keep_inputs(folder: Path, assignment: Assignment, memory: Vector | None, context: ClientContext, reason: str) -> None:
    """Write what a client was given (not its data), so that `replay` can run it again."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"array.{name}": np.array(array) for name, array in assignment.arrays.items()}
    if memory is not None:
        arrays["memory"] = memory
    save_file(arrays, folder / "inputs.safetensors")
    facts = {"sum": assignment.sum, "context": asdict(replace(context, draws=None)), "reason": reason}
    (folder / "failure.json").write_text(json.dumps(facts, indent=2))


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60]
