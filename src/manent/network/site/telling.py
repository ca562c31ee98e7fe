"""What a site's operator is shown: how things stand, what a study would do, and a trial on the site's own data."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manent.core.errors import InvalidInput, ManentError
from manent.core.examples import Client
from manent.core.protocols import ClientContext
from manent.core.randomness import repeatable
from manent.crypto import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.network.site.spending import Account
from manent.network.site.state import APPROVALS, Known, SiteState
from manent.network.site.training import Trainer, contribution
from manent.network.trust.policy import approvals, approved
from manent.network.trust.receipts import Promise
from manent.network.trust.roster import trusted
from manent.network.wire.bundle import Bundle, difference
from manent.privacy.check import Plan, resolve
from manent.rounds.declared import Sites, rebuild, schema_of
from manent.rounds.server import completed, upload_bytes


def status(state: SiteState, account: Account) -> dict[str, Any]:
    """How a site stands, from its own store alone."""
    joined, newest = state.get("server"), state.signed_roster(state.newest_roster)
    studies = [_study(state, known) for known in state.studies()]
    tasks = [{"study": task.study, "round": task.round, "index": task.index, "sum": task.name} for task in state.tasks()]
    return {
        "name": state.identity.name,
        "public": state.identity.public_hex,
        "server": None if joined is None else joined["url"],
        "quick_start": None if joined is None else joined["quick_start"],
        "signer": None if joined is None else joined["signer"],
        "roster": state.newest_roster,
        "roster_expires": None if newest is None else newest.expires,
        "member": newest is not None and state.identity.public_hex in newest.names,
        "studies": studies,
        "sums": tasks,
        "budgets": [
            {
                "data": one.data_set,
                "epsilon": one.budget.epsilon,
                "spent": one.spent,
                "reserved": one.reserved,
                "left": one.left,
                "period": None if one.period is None else {**one.period.to_plain(), "spent": one.lately},
            }
            for one in account.ledger.summary()
        ],
    }


def _study(state: SiteState, known: Known) -> dict[str, Any]:
    bundle = state.bundle(known.hash)
    answer = "accepted" if known.accepted else "waits" if known.later else "refused"
    at = {"round": known.round, "over": known.over}
    return {
        "hash": known.hash,
        "name": bundle.study["name"],
        "data": bundle.data,
        "decision": answer,
        "reason": known.reason,
        **at,
    }


def find(state: SiteState, prefix: str) -> Known:
    """The study whose hash begins with these digits. Raises InvalidInput unless there is exactly one."""
    found = [known for known in state.studies() if known.hash.startswith(prefix)]
    if len(found) != 1:
        known = ", ".join(one.hash[:12] for one in state.studies()) or "none yet"
        raise InvalidInput(f"{len(found)} studies begin with {prefix[:64]!r}; there are: {known}.")
    return found[0]


def own_plan(state: SiteState, known: Known) -> Plan:
    """The site's own plan of a study. Its statement also says who is trusted about who takes part.

    Raises InvalidInput if the study's roster was not fetched yet.
    """
    bundle, roster = state.bundle(known.hash), state.signed_roster(known.roster)
    if roster is None:
        raise InvalidInput(f"The roster {known.roster} of this study has not been fetched.")
    plan = resolve(rebuild(bundle.study), Sites(tuple(roster.names.values()), schema_of(bundle.schema)))
    return replace(plan, statement=plan.statement.deployed(trusted(state.server.signer, state.server.quick_start)))


def review(state: SiteState, known: Known) -> str:
    """What a person reads before approving: who sees what, the code, and what changed since the last approved version."""
    bundle, before = state.bundle(known.hash), _last_approved(state, known)
    against = "everything, as nothing of this name was approved before" if before is None else f"since {before.hash[:12]}"
    seen = bundle.hash in approved(state.folder / APPROVALS)
    answer = "accepted." if known.accepted else f"waits. {known.reason}" if known.later else f"refused. {known.reason}"
    head = (
        f"Study {bundle.study['name'] or known.hash[:12]!a}, bundle {bundle.hash}\n"
        f"by {bundle.researcher}, on data {bundle.data!a}\n"
        f"{'Approved here' if seen else 'Not approved here'}. The site's last answer: {answer}"
    )
    try:
        stated = str(own_plan(state, known).statement)
    except ManentError as error:
        stated = f"This site comes to no statement: {error}"
    changed = f"What is different ({against}):\n{difference(before, bundle)}"
    return f"{head}\n\n{stated}\n\n{changed}"


def _last_approved(state: SiteState, known: Known) -> Bundle | None:
    """The bundle of the study of the same name that was approved last."""
    name, by_bundle = state.bundle(known.hash).study["name"], {one.bundle: one for one in state.studies()}
    for hash in reversed(approvals(state.folder / APPROVALS)):
        other = by_bundle.get(hash)
        if other is not None and other.hash != known.hash and state.bundle(other.hash).study["name"] == name:
            return state.bundle(other.hash)
    return None


@dataclass(frozen=True)
class Trial:
    """The result of a dry run on the site's own data. Nothing has left the machine.

    Attributes:
        client: the name of the site's client.
        rows, test_rows: how many rows of the site's data take part.
        dropped: rows that lack a value, and that the study's schema lets drop.
        columns: those that the study declares, features first; the site's other columns take no part.
        seconds: for one answer, by kind of sum.
        sent: by kind of sum, the blocks and bytes that would be sent, and in how many rounds.
        guarantee: under which all of it would be released.
    """

    client: str
    rows: int
    test_rows: int
    dropped: int
    columns: tuple[str, ...]
    seconds: dict[str, float]
    sent: dict[str, Any]
    guarantee: str


def trial(plan: Plan, trainer: Trainer, loaded: Client, client: Client, seed: int = 0) -> Trial:
    """Compute one answer to each kind of sum, and throw it away.

    Args:
        loaded: the site's data.
        client: the part of them that takes part.

    Raises:
        InvalidInput: for data that do not fit.
        ClientFailed: if the study's code fails.
    """
    algorithm = plan.study.algorithm
    state = algorithm.init(plan.public, repeatable(seed, "init"))
    seconds: dict[str, float] = {}
    sent: dict[str, Any] = {}
    for round in range(1, max(spec.every for spec in plan.sums.values()) + 1):
        for index in range(len(plan.sums)):
            given = algorithm.assign(state, round, index)
            if given is None or given.sum in seconds:
                continue
            stack = plan.stacks[given.sum]
            assignment = completed(plan, given, stack.init())
            context = ClientContext(client.name, round, seed, draws=ExactDraws(SystemRandom()))
            row = None if plan.memory is None else np.zeros(plan.memory.size, np.float32)
            began = time.perf_counter()
            contribution(plan, trainer, assignment, row, context, SystemRandom())
            seconds[given.sum] = time.perf_counter() - began
            blocks = {block.name: block.size for block in stack.layout.blocks}
            rounds = plan.study.rounds // plan.sums[given.sum].every
            sent[given.sum] = {"blocks": blocks, "bytes": upload_bytes(plan, given.sum), "rounds": rounds}
    schema = plan.public.schema
    columns = tuple(column.name for column in (*schema.features, *schema.columns))
    sizes = (len(client.train), 0 if client.test is None else len(client.test))
    dropped = len(loaded.train) + (0 if loaded.test is None else len(loaded.test)) - sum(sizes)
    return Trial(client.name, *sizes, dropped, columns, seconds, sent, str(Promise.of(plan.statement)))
