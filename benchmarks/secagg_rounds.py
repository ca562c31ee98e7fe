"""Rounds of secure aggregation, recorded from real clients, and played to a server that is measured.

The server's part follows from what it receives, and from nothing else. So the clients' half runs once, in worker processes, and
every message to the server is written down; then a server in a process of its own is given the same messages, one after another,
from the files: nothing of the clients counts as its time or memory, and its uploads are not held by anyone.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO

import numpy as np

from manent.core.parties import SERVER, Envelope, Step
from manent.core.randomness import repeatable
from manent.crypto import SystemRandom
from manent.crypto.identity import SigningKey
from manent.summation.secagg import parameters, ring, wire
from manent.summation.secagg.client import SecAggClient
from manent.summation.secagg.server import SecAggServer
from manent.summation.secagg.terms import CLASSICAL, HYBRID, MILLION, Call, Expected, Roster, Terms
from manent.summation.secagg.wire import Kind

PHASE_UP = {
    Kind.ADVERTISE: "advertise",
    Kind.SHARES: "share",
    Kind.UPLOAD: "upload",
    Kind.CONSENT: "consent",
    Kind.REVEAL: "reveal",
}
PHASE_DOWN = {
    Kind.CALL: "advertise",
    Kind.DIRECTORY: "share",
    Kind.DELIVERIES: "upload",
    Kind.RECEIVED: "upload",
    Kind.SURVIVORS: "consent",
    Kind.CONSENTS: "reveal",
    Kind.CLOSED: "reveal",
}
DEADLINE = 2**32 - 1
BATCH = 8  # clients that a worker is given at once


@dataclass(frozen=True)
class Job:
    """A round to record: its size, its terms, and how many clients vanish between their shares and their upload.

    Attributes:
        planned: the dropped share that graph and threshold are chosen for.
        dropouts: shares that do vanish; each is a round of its own, with the same uploads.
    """

    clients: int
    size: int
    planned: float
    dropouts: tuple[float, ...]
    complete: bool = True
    hybrid: bool = False
    value_bits: int = 16
    corrupt: float = 0.1

    def terms(self) -> Terms:
        n, choice = self.clients, parameters.find(self.clients, self.corrupt, self.planned, "active", complete=self.complete)
        bits = ring.bits_for(n, 2 ** (self.value_bits - 1) - 1)
        least, suite = max(10, choice.threshold), HYBRID if self.hybrid else CLASSICAL
        fractions = (int(self.corrupt * MILLION), int(self.planned * MILLION))
        return Terms(n, choice.degree, choice.threshold, least, self.size, bits, *fractions, suite)

    def vector(self, position: int) -> np.ndarray:
        """What the client at a position gives: any whole numbers of so many bits."""
        most = 2 ** (self.value_bits - 1)
        return repeatable(7, "secagg benchmark", position).integers(1 - most, most, self.size, dtype=np.int64)

    def gone(self, dropout: float) -> frozenset[int]:
        """Who vanishes."""
        drawn = repeatable(7, "secagg drop-outs", round(dropout * MILLION)).permutation(self.clients)
        return frozenset(drawn[: round(dropout * self.clients)].tolist())


# The clients' half.


class Clients:
    """Some clients in a worker process, and what each step takes them."""

    def __init__(self, job: Job, call: Call, roster: Roster, keys: Mapping[int, SigningKey]) -> None:
        expected = Expected(call.study, call.sum, call.round, call.model, call.terms, call.beacon)
        self._job = job
        self._all = {p: SecAggClient(key, roster, expected, SystemRandom()) for p, key in keys.items()}
        self.seconds: dict[str, list[float]] = {}

    def answer(self, position: int, message: bytes) -> bytes:
        """The client's reply to a message of the server; that to the last one is empty."""
        client, kind = self._all[position], Kind(message[4])
        name = {Kind.DELIVERIES: "open", Kind.SURVIVORS: "consent"}.get(kind, PHASE_DOWN[kind])
        step = self._timed(name, client.receive, Envelope(SERVER, client.name, message))
        if kind is Kind.DELIVERIES:
            step = self._timed("mask", client.contribute, self._job.vector(position))
        assert step.send and not client.refusals, client.refusals
        return step.send[0].body

    def _timed(self, name: str, work: Any, given: object) -> Step:
        start = time.thread_time()
        step: Step = work(given)
        self.seconds.setdefault(name, []).append(time.thread_time() - start)
        return step

    def serve(self, pipe: Connection) -> None:
        """Answer until told to end. A branch is a copy of this process, which alone goes on until it ends."""
        while True:
            order, given = pipe.recv()
            if order == "answer":
                pipe.send([(position, self.answer(position, message)) for position, message in given])
            elif order == "sum":
                pipe.send(sum((self._job.vector(p) for p in given if p in self._all), np.zeros(self._job.size, np.int64)))
            elif order == "seconds":
                pipe.send(self.seconds)
            elif order == "branch":
                if child := os.fork():
                    os.waitpid(child, 0)
            else:
                os._exit(0)


class Crowd:
    """All clients of a round, in worker processes."""

    def __init__(self, job: Job, call: Call, roster: Roster, keys: Sequence[SigningKey], workers: int) -> None:
        context = get_context("fork")
        self._pipes, self._workers = [], workers
        for worker in range(workers):
            here, there = context.Pipe()
            some = {p: keys[p] for p in range(worker, job.clients, workers)}
            context.Process(target=lambda a, b: Clients(job, call, roster, a).serve(b), args=(some, there), daemon=True).start()
            self._pipes.append(here)

    def answers(self, messages: Mapping[int, bytes]) -> Iterator[tuple[int, bytes]]:
        """Each client's reply."""
        queues = [[(p, m) for p, m in messages.items() if p % self._workers == w] for w in range(self._workers)]
        while any(queues):
            busy = [(pipe, queue) for pipe, queue in zip(self._pipes, queues, strict=True) if queue]
            for pipe, queue in busy:
                pipe.send(("answer", queue[:BATCH]))
                del queue[:BATCH]
            for pipe, _ in busy:
                yield from pipe.recv()

    def ask(self, order: str, given: object = None) -> list[Any]:
        """Every worker's answer to an order."""
        self.tell(order, given)
        return [pipe.recv() for pipe in self._pipes]

    def tell(self, order: str, given: object = None) -> None:
        for pipe in self._pipes:
            pipe.send((order, given))

    def medians(self) -> dict[str, float]:
        """Milliseconds of processor time that a step takes a client."""
        found: dict[str, list[float]] = {}
        for seconds in self.ask("seconds"):
            for name, each in seconds.items():
                found.setdefault(name, []).extend(each)
        return {name: 1e3 * median(each) for name, each in found.items()}


# Recording.


def record(job: Job, folder: Path, workers: int) -> None:
    """Run the clients, and write down every message that the server gets: `common`, `uploads`, and a `branch` per dropout."""
    folder.mkdir(parents=True, exist_ok=True)
    random, terms, began = SystemRandom(), job.terms(), time.perf_counter()
    identities = [SigningKey.generate(random) for _ in range(job.clients)]
    roster = Roster.of(1, [identity.public for identity in identities])
    call = Call(terms, random.bytes(32), "train", 1, 1, 1, roster.root, random.bytes(32), random.bytes(32))
    by_key = {identity.public: identity for identity in identities}
    crowd = Crowd(job, call, roster, [by_key[key] for key in call.cohort(roster)], workers)
    server = Recorder(SecAggServer(call, roster))
    messages = server.sent(server.party.start())
    with (folder / "common").open("wb") as file:
        messages = server.take(file, crowd.answers(messages))
        messages = server.take(file, crowd.answers(messages))
    with (folder / "uploads").open("wb") as file:
        for position, upload in sorted(crowd.answers(messages)):
            write(file, position, upload)
    facts = {"client_ms": crowd.medians(), "clients_s": {"until_upload": time.perf_counter() - began}}
    for dropout in job.dropouts:
        began = time.perf_counter()
        crowd.tell("branch")
        facts["client_ms"] |= branch(job, folder, dropout, crowd, pickle.loads(pickle.dumps(server)))
        crowd.tell("end")
        facts["clients_s"][f"{dropout:g}"] = time.perf_counter() - began
    crowd.tell("end")
    (folder / "call").write_bytes(call.body)
    (folder / "roster").write_bytes(b"".join(roster.identities))
    (folder / "facts.json").write_text(json.dumps(facts))
