"""Rounds of secure aggregation, recorded from real clients, and played to a server that is measured.

What the server does depends only on the messages that it receives. So the clients' half runs once, in worker processes, and every
message to the server is recorded. Then a server in a process of its own gets the same messages from the files, one after another:
no client's time or memory counts as the server's, and nobody holds the uploads in memory.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, BinaryIO, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from manent.core.parties import SERVER, Envelope, Step
from manent.core.randomness import repeatable
from manent.crypto import SystemRandom
from manent.crypto.identity import SigningKey
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind
from manent.summation.secagg import parameters, ring
from manent.summation.secagg.client import SecAggClient
from manent.summation.secagg.server import SecAggServer
from manent.summation.secagg.terms import CLASSICAL, HYBRID, MILLION, Call, Expected, Terms

PHASES = {
    Kind.CALL: "advertise",
    Kind.ADVERTISE: "advertise",
    Kind.DIRECTORY: "share",
    Kind.SHARES: "share",
    Kind.DELIVERIES: "upload",
    Kind.UPLOAD: "upload",
    Kind.RECEIVED: "upload",
    Kind.SURVIVORS: "consent",
    Kind.CONSENT: "consent",
    Kind.CONSENTS: "reveal",
    Kind.REVEAL: "reveal",
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
        minimum, suite = max(10, choice.threshold), HYBRID if self.hybrid else CLASSICAL
        fractions = (int(self.corrupt * MILLION), int(self.planned * MILLION))
        return Terms(n, choice.degree, choice.threshold, minimum, self.size, bits, *fractions, suite)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The job of a recording."""
        values = json.loads((folder / "job.json").read_text())
        return cls(**values | {"dropouts": tuple(values["dropouts"])})

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
    """Some clients in a worker process, and how long each step takes them."""

    def __init__(self, job: Job, call: Call, roster: Roster, keys: Mapping[int, SigningKey]) -> None:
        expected = Expected(call.study, call.sum, call.round, call.model, call.terms, call.beacon)
        self._job = job
        self._all = {p: SecAggClient(key, roster, expected, SystemRandom()) for p, key in keys.items()}
        self.seconds: dict[str, list[float]] = {}

    def answer(self, position: int, message: bytes) -> bytes:
        """The client's reply to a message of the server; that to the last one is empty."""
        client, kind = self._all[position], Kind(message[4])
        step = self._timed(
            "open" if kind is Kind.DELIVERIES else PHASES[kind], client.receive, Envelope(SERVER, client.name, message)
        )
        if kind is Kind.DELIVERIES:
            step = self._timed("mask", client.contribute, self._job.vector(position))
        if not step.send:
            raise RuntimeError(f"A client has refused: {client.refusals}")
        return step.send[0].body

    def _timed(self, name: str, work: Any, given: object) -> Step:
        start = time.thread_time()
        step: Step = work(given)
        self.seconds.setdefault(name, []).append(time.thread_time() - start)
        return step

    def serve(self, pipe: Connection) -> None:
        """Answer until told to end. A branch is a copy of this process, which alone goes on until it ends."""
        gc.disable()  # it would go through all the clients again and again; one alone has little to collect
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


class Recorder:
    """A server that gets messages only for its answers."""

    def __init__(self, call: Call, roster: Roster) -> None:
        self.server = SecAggServer(call, roster)
        self._places = {key.hex(): position for position, key in enumerate(self.server.cohort)}

    def asked(self, step: Step) -> dict[int, bytes]:
        """By position, what is to be answered."""
        found = {self._places[envelope.recipient]: envelope.body for envelope in step.send}
        return {position: body for position, body in found.items() if body[4] != Kind.RECEIVED}

    def give(self, position: int, message: bytes) -> dict[int, bytes]:
        return self.asked(self.server.receive(Envelope(self.server.cohort[position].hex(), SERVER, message)))

    def take(self, file: BinaryIO, answers: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
        """Record answers, give them to the server, and return what it sends once it has them all."""
        asked: dict[int, bytes] = {}
        for position, message in answers:
            write(file, position, message)
            asked |= self.give(position, message)
        return asked


def record(job: Job, folder: Path, workers: int) -> None:
    """Run the clients, and record all that the server is sent: `common`, `uploads`, and a branch for each dropout."""
    folder.mkdir(parents=True, exist_ok=True)
    random, terms, began = SystemRandom(), job.terms(), time.perf_counter()
    identities = [SigningKey.generate(random) for _ in range(job.clients)]
    roster = Roster.of(1, [identity.public for identity in identities])
    call = Call(terms, random.bytes(32), "train", 1, 1, roster.number, roster.root, random.bytes(32), random.bytes(32))
    by_key = {identity.public: identity for identity in identities}
    crowd = Crowd(job, call, roster, [by_key[key] for key in call.cohort(roster)], workers)
    server = Recorder(call, roster)
    messages = server.asked(server.server.start())
    with (folder / "common").open("wb") as file:
        messages = server.take(file, crowd.answers(messages))
        messages = server.take(file, crowd.answers(messages))
    with (folder / "uploads").open("wb") as file:
        for position, upload in crowd.answers(messages):
            write(file, position, upload)
    before, facts = time.perf_counter() - began, {}
    for dropout in job.dropouts:
        began = time.perf_counter()
        crowd.tell("branch")
        branch(job, folder, dropout, crowd, deepcopy(server))
        facts[f"{dropout:g}"] = {"client_ms": crowd.medians(), "clients_s": before + time.perf_counter() - began}
        crowd.tell("end")
    crowd.tell("end")
    (folder / "call").write_bytes(call.body)
    (folder / "roster").write_bytes(b"".join(roster.identities))
    (folder / "facts.json").write_text(json.dumps(facts))
    (folder / "job.json").write_text(json.dumps(asdict(job)))


def branch(job: Job, folder: Path, dropout: float, crowd: Crowd, server: Recorder) -> None:
    """The round from the uploads on, with some clients that vanish before theirs."""
    gone, messages = job.gone(dropout), dict[int, bytes]()
    for position, upload in read(folder / "uploads"):
        if position not in gone:
            messages |= server.give(position, upload)
    with (folder / f"branch {dropout:g}").open("wb") as file:
        if gone:
            write(file, DEADLINE, b"")
            messages = server.asked(server.server.deadline())
        messages = server.take(file, crowd.answers(messages))
        for position, message in crowd.answers(messages):  # the last forms the sum, which is left to who is measured
            write(file, position, message)
    survivors = frozenset(range(job.clients)) - gone
    np.save(folder / f"sum {dropout:g}.npy", np.sum(crowd.ask("sum", survivors), axis=0))


def write(file: BinaryIO, position: int, message: bytes) -> None:
    file.write(position.to_bytes(4, "big") + len(message).to_bytes(8, "big") + message)


def read(path: Path) -> Iterator[tuple[int, bytes]]:
    """The messages of a file, one at a time."""
    with path.open("rb") as file:
        while head := file.read(12):
            yield int.from_bytes(head[:4], "big"), file.read(int.from_bytes(head[4:], "big"))


# The server's half.


@dataclass
class Tally:
    """What a server did: seconds by phase, and the lengths of messages by kind."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    up: dict[Kind, list[int]] = field(default_factory=dict)
    down: dict[Kind, list[int]] = field(default_factory=dict)

    def step(self, server: SecAggServer, work: Callable[..., Step], *given: Envelope) -> None:
        """One step, timed. The last, in which the masks come off, is a phase of its own."""
        phase, wall, cpu = str(server.phase), time.perf_counter(), time.process_time()
        step = work(*given)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        phase = "unmask" if server.finished else phase
        self.wall[phase] = self.wall.get(phase, 0.0) + wall
        self.cpu[phase] = self.cpu.get(phase, 0.0) + cpu
        for lengths, envelopes in ((self.up, given), (self.down, step.send)):
            for envelope in envelopes:
                lengths.setdefault(Kind(envelope.body[4]), []).append(len(envelope.body))

    def cost(self, threads: int) -> float:
        """Seconds of the cores that are kept busy: one, and while the masks come off as many as there are threads."""
        return sum(wall * (threads if phase == "unmask" else 1) for phase, wall in self.wall.items())


def per_client(lengths: dict[Kind, list[int]]) -> dict[str, int]:
    """Bytes by phase and in total, for a client that stays to the end."""
    found: dict[str, int] = {}
    for kind, each in lengths.items():
        found[PHASES[kind]] = found.get(PHASES[kind], 0) + round(sum(each) / len(each))
    return found | {"total": sum(found.values())}


def play(folder: Path, dropout: float, threads: int, runs: int) -> dict[str, Any]:
    """Give a fresh server a recorded round, several times: the times of the fastest, and the memory that the first takes.

    The floor is measured after each run, and its fastest counts too: what else the machine does meets both.
    """
    job = Job.load(folder)
    call, keys = Call.read((folder / "call").read_bytes()), (folder / "roster").read_bytes()
    roster = Roster(call.roster_number, tuple(keys[i : i + 32] for i in range(0, len(keys), 32)))
    names, expected = [key.hex() for key in call.cohort(roster)], np.load(folder / f"sum {dropout:g}.npy", allow_pickle=False)
    tallies, floors, exact, memory, gone = [], [], True, 0, job.gone(dropout)
    pairs = sum(len(set(call.neighbours(one)) - gone) for one in gone)
    for run in range(runs):
        start = reset_peak()
        server, tally = SecAggServer(call, roster, threads=threads), Tally()
        tally.step(server, server.start)
        for position, message in script(folder, job, dropout):
            if position == DEADLINE:
                tally.step(server, server.deadline)
            else:
                tally.step(server, server.receive, Envelope(names[position], SERVER, message))
        memory = memory if run else peak() - start
        exact = exact and server.phase == "done" and np.array_equal(server.total, expected)
        tallies.append(tally)
        floors.append(floor_of(call.terms, job.clients - len(gone), pairs))
    best = min(tallies, key=lambda tally: tally.cost(threads))
    floor = min(floors, key=lambda each: each["floor_s"])
    return {
        "exact": bool(exact),
        "server_s": sum(best.wall.values()),
        "server_cpu_s": sum(best.cpu.values()),
        "server_by_phase_s": best.wall,
        **floor,
        "ratio_to_floor": best.cost(threads) / floor["floor_s"],
        "cpu_ratio_to_floor": min(sum(tally.cpu.values()) for tally in tallies) / floor["floor_s"],
        "peak_memory_mb": memory / 1e6,
        "bytes_up": per_client(best.up),
        "bytes_down": per_client(best.down),
    }


def script(folder: Path, job: Job, dropout: float) -> Iterator[tuple[int, bytes]]:
    """Everything that the server is sent, in order."""
    gone = job.gone(dropout)
    yield from read(folder / "common")
    yield from ((position, upload) for position, upload in read(folder / "uploads") if position not in gone)
    yield from read(folder / f"branch {dropout:g}")


def floor_of(terms: Terms, survivors: int, pairs: int) -> dict[str, Any]:
    """What cannot be saved: the masks that the server must take off, and for those of pairs the agreements; best of several.

    A mask is keystream and addition with the cipher and NumPy alone, in pieces that fit the cache.
    """
    total, zeros = np.zeros(terms.size, ring.lane(terms.bits)), bytes(1 << 17)
    written = np.empty(len(zeros) + 16, np.uint8)

    def mask() -> None:
        stream, lanes = Cipher(algorithms.AES256(bytes(32)), modes.CTR(bytes(16))).encryptor(), len(zeros) // total.itemsize
        for start in range(0, len(total), lanes):
            part = total[start : start + lanes]
            stream.update_into(memoryview(zeros)[: part.nbytes], written.data)
            np.add(part, written[: part.nbytes].view(total.dtype), out=part)

    own, peer = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key().public_bytes_raw()
    kem = MLKEM768PrivateKey.generate()
    text = kem.public_key().encapsulate()[1]
    each = best_of(mask, 0.5)
    agreement = best_of(lambda: own.exchange(X25519PublicKey.from_public_bytes(peer)), 0.2)
    if terms.hybrid:  # of every other pair the server opens a ciphertext, of the rest a note
        agreement += best_of(lambda: kem.decapsulate(text), 0.2) / 2
    return {
        "floor_s": (survivors + pairs) * each + pairs * agreement,
        "floor": {"masks": survivors + pairs, "mask_ms": 1e3 * each, "agreements": pairs, "agreement_us": 1e6 * agreement},
    }


def best_of(work: Callable[[], object], seconds: float) -> float:
    """Seconds that one piece of work takes, in the fastest of five blocks, of so many seconds together.

    Blocks, as the server's work is as long: the fastest single piece is one that no row of them keeps up.
    """
    began = time.perf_counter()
    work()
    count = max(1, round(seconds / 5 / (time.perf_counter() - began)))
    blocks = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            work()
        blocks.append((time.perf_counter() - began) / count)
    return min(blocks)


def reset_peak() -> int:
    """Bytes of memory that this process holds; the peak is counted from here (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
