"""The clients' side of a simulated sum: an aligned run of the cohort at a time, the same code in every worker."""

from __future__ import annotations

import json
import math
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from manent.core.errors import ClientFailed, ManentError
from manent.core.examples import Client
from manent.core.protocols import AlgorithmTraits, Assignment, ClientContext, Contribution, traits
from manent.core.randomness import PrivateRandom
from manent.core.sums import Partial, TreeSum
from manent.core.vectors import Array, Vector
from manent.crypto.random import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.engines.conditions import Conditions
from manent.engines.memory import ClientMemory
from manent.privacy.check import Plan
from manent.rounds.client import Outcome, outcomes, summed

MOST_KEPT = 20
"""About how many failures of a run keep their inputs: where failing clients send zeros, there may be many."""


@dataclass(frozen=True)
class Unit:
    """An aligned run [index * 2**level, ...) of a cohort's positions, with the clients that stand there.

    Attributes:
        sum, round, sum_index: the sum's name, its round from 1, and which sum of the round it is, from 0.
        count: positions in the whole cohort.
        clients: indices into the federation, one a position of the run.
        slots: which slot of its memory is current, one a client; empty for a study that keeps nothing.
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
        """Where its clients stand in the cohort."""
        return range(self.index << self.level, (self.index << self.level) + len(self.clients))


@dataclass(frozen=True)
class UnitAnswer:
    """The sum of a unit's clients, and who answered.

    Attributes:
        partial: the sum over its run.
        answered, lost: positions that answered, and that dropped out.
        sent_to: to how many clients the assignment went.
        losses: the clients' own training losses, in order; for the probe.
        failures: of clients that sent zeros, or noise alone, because their code raised. No server could know them.
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
    """Everything that clients do in a simulation.

    Args:
        memory: what clients keep between rounds; None for a study that keeps nothing.
        failures: the folder for the inputs of clients that fail, or None.
        random: source of rounding and of the clients' noise; None is the operating system's.
    """

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
        self.together = traits(plan.study.algorithm, AlgorithmTraits).together
        self._totals: dict[tuple[str, int], TreeSum] = {}

    def twin(self) -> ClientSide:
        """Another that shares everything but its buffers, for another thread."""
        return ClientSide(self.plan, self.clients, self.seed, self.conditions, self.memory, self.failures)

    def answer(self, unit: Unit, assignment: Assignment, out: Array | None = None) -> UnitAnswer:
        """Ask each client of a unit, and add up the vectors that arrive, into `out` where it is given.

        Raises ClientFailed for a client that cannot answer, or whose vector a layer refuses.
        """
        asked, lost, sent_to = self._asked(unit)
        total = self._total(unit)
        for position in lost:
            total.skip(position)
        losses: list[float] = []
        hidden: list[ClientFailed] = []
        ask, ask_empty = partial(self._ask, assignment), partial(self._ask, assignment, empty=True)
        for start in range(0, len(asked), self.together):
            group = asked[start : start + self.together]
            for one, outcome in zip(group, outcomes(self.plan, assignment.sum, group, ask, ask_empty), strict=True):
                contribution = self._settled(assignment, one, outcome, hidden)
                try:
                    self._add(total, one, contribution, assignment)
                except ManentError as error:  # a layer refuses what the client would send
                    raise self._failed(assignment, one, str(error)) from error
                if math.isfinite(contribution.probe.get("loss", math.nan)):
                    losses.append(contribution.probe["loss"])
        part = total.take(unit.level, unit.index, out)
        answered = tuple(one.position for one in asked)
        return UnitAnswer(part, answered, tuple(lost), sent_to, tuple(losses), tuple(hidden))

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

    def _ask(self, assignment: Assignment, group: Sequence[_Asked], empty: bool = False) -> Sequence[Contribution]:
        clients = [one.client.emptied() if empty else one.client for one in group]
        kept, contexts = [self._kept(one) for one in group], [one.context for one in group]
        return self.plan.study.algorithm.answer(assignment, clients, kept, contexts)

    def _kept(self, one: _Asked) -> Vector | None:
        """What a client has kept for the algorithm. It is read only when the client is asked, as a unit may be long."""
        if self.memory is None or not self.plan.own:
            return None
        return self.memory.read(one.index, one.slot)[: self.plan.own]

    def _total(self, unit: Unit) -> TreeSum:
        """An empty sum for a cohort of this size. The last one is used again, for its buffers."""
        key = unit.sum, unit.count
        if key not in self._totals:
            stack = self.plan.stacks[unit.sum]
            self._totals = {key: TreeSum(stack.layout.size, unit.count, stack.dtype)}
        return self._totals[key]

    def _settled(self, assignment: Assignment, one: _Asked, outcome: Outcome, hidden: list[ClientFailed]) -> Contribution:
        """The contribution of an outcome, after a warning where zeros are sent. Raises ClientFailed where there is none.

        The simulation knows all clients, so it counts the failures that zeros hide: where every client of a sum failed, it
        stops, as this would otherwise hide a mistake in the study. No deployment could do that.
        """
        error = outcome.error
        if error is not None:
            known = isinstance(error, ManentError)
            reason = str(error) if known else f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}"
            failed = self._failed(assignment, one, reason)
            if outcome.lost:
                raise failed from error
            hidden.append(failed)
            kept = f" Its inputs are kept in {failed.folder} (see manent.replay)." if failed.folder else ""
            verb = "are" if outcome.instead == "zeros" else "is"
            first = reason.splitlines()[0] if reason else "no reason given"
            warnings.warn(f"{one.client.name}: {first}; {outcome.instead} {verb} sent instead.{kept}", stacklevel=2)
        if outcome.not_finite:
            text = f"{one.client.name}: {outcome.not_finite!r} holds NaN or infinity; zeros are sent instead."
            warnings.warn(text, stacklevel=2)
        return outcome.contribution

    def _add(self, total: TreeSum, one: _Asked, contribution: Contribution, assignment: Assignment) -> None:
        """The layers' client halves, and the only crossing. What is private to the client ends here."""
        kept = None if self.memory is None else partial(self.memory.read, one.index, one.slot)
        vector, row = summed(self.plan, assignment, contribution, kept, self.random)
        total.add(one.position, vector)
        if self.memory is not None and row is not None:
            self.memory.stage(one.index, one.slot, row)

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
