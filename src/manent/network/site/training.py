"""A site's answer to an assignment: computed, checked, and brought into the form in which it is summed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from manent.core.errors import ClientFailed, ManentError
from manent.core.examples import Client, Examples, Schema
from manent.core.protocols import Assignment, ClientContext, Contribution
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Vector
from manent.data.checks import checked_client
from manent.network.sandbox.child import Child, Limits, isolation_here
from manent.network.sandbox.handover import Data
from manent.network.trust.policy import Policy
from manent.network.wire.bundle import Bundle
from manent.privacy.check import Plan
from manent.rounds.client import outcomes, summed
from manent.rounds.declared import declared_model

log = logging.getLogger("manent.site")


def taking_part(client: Client, schema: Schema) -> Client:
    """The part of a site's data that takes part in a study: the columns of its schema, without the rows that it lets drop.

    Raises InvalidInput for data that the schema does not allow, as a simulation does.
    """
    declared = {column.name for column in schema.columns}

    def part(data: Examples) -> Examples:
        return replace(data, columns={name: values for name, values in data.columns.items() if name in declared})

    own = Client(client.name, part(client.train), None if client.test is None else part(client.test))
    return checked_client(own, schema)


class Trainer(Protocol):
    """Computes a client's contribution, wherever that is done."""

    def answer(self, assignment: Assignment, memory: Vector | None, context: ClientContext, empty: bool = False) -> Contribution:
        """The client's contribution to a sum; or, `empty`, what it would be without any example.

        Raises ClientFailed, or whatever the code raises.
        """
        ...


class OwnProcess:
    """Computes a study of built-in parts, in the site's own process.

    Raises InvalidInput for data that do not fit the study.
    """

    def __init__(self, plan: Plan, client: Client) -> None:
        plan.study.algorithm.check(client)
        self._plan, self._client = plan, client

    def answer(self, assignment: Assignment, memory: Vector | None, context: ClientContext, empty: bool = False) -> Contribution:
        """See `Trainer`. Raises whatever the algorithm raises."""
        client = self._client.emptied() if empty else self._client
        (found,) = self._plan.study.algorithm.answer(assignment, [client], [memory], [context])
        return found


class Children:
    """The processes of studies with code of their own, one each, within a site's policy.

    Args:
        folder: the site's own, which that code must not see.
    """

    def __init__(self, policy: Policy, folder: Path) -> None:
        self._policy, self._folder = policy, folder
        self._found: dict[str, Child] = {}
        self._lock = threading.Lock()
        self._isolated: bool | None = None

    @property
    def isolated(self) -> bool:
        """Whether this system can isolate code. It is tried once."""
        if self._isolated is None:
            try:
                found = isolation_here((self._folder,))
                self._isolated, reason = found.complete, str(found)
            except ManentError as error:
                self._isolated, reason = False, str(error)
            log.log(logging.INFO if self._isolated else logging.WARNING, "isolation", extra={"reason": reason})
        return self._isolated

    def trainer(self, bundle: Bundle, plan: Plan, client: Client) -> Trainer:
        """What computes a bundle's contributions: its own process, started, with a copy of the client's data. Built-in models
        run in this process.

        Raises as `Child.start` does, and InvalidInput for data that do not fit the model.
        """
        if declared_model(plan.study) is None:
            return OwnProcess(plan, client)
        with self._lock:
            found = self._found.get(bundle.hash)
            if found is None or found.plan is not plan:
                self._end(bundle.hash)
                rule = self._policy.limits
                limits = Limits(memory_bytes=int(rule.memory_mb * 1e6), seconds=rule.seconds)
                found = Child(bundle.code, plan, Data.of(client), limits, self._policy.code.isolation, (self._folder,))
                self._found[bundle.hash] = found
        found.start()
        return found

    def end(self, bundle: str) -> None:
        """End the process of a bundle, by its hash, if there is one."""
        with self._lock:
            self._end(bundle)

    def _end(self, bundle: str) -> None:
        found = self._found.pop(bundle, None)
        if found is not None:
            found.close()
            found.data.close()

    def close(self) -> None:
        """End all."""
        with self._lock:
            for bundle in list(self._found):
                self._end(bundle)


def contribution(
    plan: Plan, trainer: Trainer, assignment: Assignment, row: Vector | None, context: ClientContext, random: PrivateRandom
) -> tuple[Array, Vector | None]:
    """The vector [d] as it is summed, and the row [m] to keep if it is in the released sum.

    Layers, rounding and noise are manent's own. In a sum with noise a client that fails sends zeros, or noise alone where its
    training noises each step, because its failure would tell something of its data; only the site's log says so.

    Args:
        row: float32[m], what the client has kept, the algorithm's part first; None for a study that keeps nothing.

    Raises ClientFailed where the client cannot answer.
    """
    own = None if row is None or not plan.own else row[: plan.own]

    def ask(asked: Sequence[ClientContext], empty: bool = False) -> list[Contribution]:
        return [trainer.answer(assignment, own, one, empty) for one in asked]

    (outcome,) = outcomes(plan, assignment.sum, [context], ask, partial(ask, empty=True))
    error = outcome.error
    reason = str(error) if isinstance(error, ManentError) else f"{type(error).__name__}: {error}"
    if outcome.lost:
        failed = ClientFailed(context.client, context.round, assignment.sum, reason)
        raise (error if isinstance(error, ClientFailed) else failed) from error
    if error is not None:
        log.warning("the client failed", extra={"reason": reason, "sent": outcome.instead, "round": context.round})
    if outcome.not_finite:
        log.warning("zeros are sent: not finite", extra={"tensor": outcome.not_finite, "round": context.round})
    kept = None if row is None else partial(np.array, row, np.float32)
    return summed(plan, assignment, outcome.contribution, kept, random)
