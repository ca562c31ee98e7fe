"""A small real protocol for the storm: a server collects numbers from clients, each exactly once, without seeing any.

A client sends its number plus a blind; the server closes the list; those on it reveal their blinds; the server tells the sum.
`flaw` names a mistake that the storm has to find; "" is the protocol as it should be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from manent.core.parties import SERVER, Envelope, Step
from manent.core.randomness import repeatable_seed
from manent.crypto.random import InsecureTestRNG
from manent.storm import Actor, World, changed_messages

NUMBER, CLOSED, REVEAL, DONE, ABORTED = b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"
PATIENCE = 4  # deadlines that the server waits for the blinds
FLAWS = {
    "client keeps nothing": "changed message",
    "server keeps no list": "changed message",
    "answers differ": "changed message",
    "counts repeats": "wrong sum",
    "never sends again": "no end",
    "keeps too late": "wrong sum",
    "raises": "error",
}


class Client:
    def __init__(self, name: str, value: int, private: InsecureTestRNG, records: list[bytes], flaw: str) -> None:
        self.name, self.value, self.flaw = name, value, flaw
        self.blind = private.bytes(8)
        self.kept = self.listed = self.finished = False
        self.tries = 0
        self.total: int | None = None
        for record in records:
            kind, rest = record[:1], record[1:]
            if kind == NUMBER:
                self.blind, self.kept = rest, True
            self.listed |= kind == CLOSED
            self.finished |= kind in (DONE, ABORTED)
            self.total = int.from_bytes(rest, "big") if kind == DONE else self.total

    def _say(self, body: bytes) -> tuple[Envelope, ...]:
        return (Envelope(self.name, SERVER, body),)

    def deadline(self) -> Step:
        self.tries += 1
        if self.flaw == "never sends again" and self.tries > 1:
            return Step()
        if self.listed:
            return Step(send=self._say(REVEAL + self.blind))
        hidden = (self.value + int.from_bytes(self.blind, "big")) % 2**64
        keep = () if self.kept or self.flaw == "client keeps nothing" else (NUMBER + self.blind,)
        self.kept = True
        return Step(keep, self._say(NUMBER + hidden.to_bytes(8, "big")))

    def receive(self, envelope: Envelope) -> Step:
        kind, rest = envelope.body[:1], envelope.body[1:]
        if self.finished:
            return Step()
        if kind == CLOSED and self.name in rest.decode().split():
            keep = () if self.listed else (CLOSED,)
            self.listed = True
            return Step(keep, self._say(REVEAL + self.blind))
        if kind == DONE:
            self.total = int.from_bytes(rest, "big")
        self.finished = True
        return Step((kind + rest if kind == DONE else ABORTED,))


class Server:
    def __init__(self, clients: Sequence[str], records: list[bytes], flaw: str) -> None:
        self.name, self.clients, self.flaw = SERVER, clients, flaw
        self.numbers: dict[str, int] = {}
        self.blinds: dict[str, int] = {}
        self.listed: list[str] | None = None
        self.total: int | None = None
        self.aborted = False
        self.patience, self.answered = PATIENCE, Counter[bytes]()
        for record in records:
            self._apply(record)

    @property
    def finished(self) -> bool:
        return self.aborted or self.total is not None

    def _apply(self, record: bytes) -> None:
        kind, who, number = record[:1], record[9:].decode(), int.from_bytes(record[1:9], "big")
        if kind in (NUMBER, REVEAL):
            known = self.numbers if kind == NUMBER else self.blinds
            known[who] = number + (known.get(who, 0) if self.flaw == "counts repeats" else 0)
        elif kind == CLOSED:
            self.listed = who.split()
        else:
            self.aborted, self.total = kind == ABORTED, number if kind == DONE else None

    def _answer(self, client: str) -> Iterator[Envelope]:
        """The last word to a client, whatever it asked."""
        body = None if self.listed is None else CLOSED + " ".join(self.listed).encode()
        if self.total is not None:
            body = DONE + self.total.to_bytes(8, "big")
        elif self.aborted:
            body = ABORTED
        if body is not None:
            self.answered[body[:1] + client.encode()] += 1
            again = self.answered[body[:1] + client.encode()] > 1 and self.flaw == "answers differ"
            yield Envelope(SERVER, client, body + b" again" if again else body)

    def _settle(self, record: bytes, *before: bytes) -> Step:
        self._apply(record)
        keep = before if record[:1] == CLOSED and self.flaw == "server keeps no list" else (*before, record)
        return Step(keep, tuple(e for client in self.clients for e in self._answer(client)))

    def _close(self, *before: bytes) -> Step:
        if len(self.numbers) < 2:
            return self._settle(ABORTED + bytes(8), *before)
        return self._settle(CLOSED + bytes(8) + " ".join(sorted(self.numbers)).encode(), *before)

    def deadline(self) -> Step:
        if self.listed is None:
            return self._close()
        self.patience -= 1
        return self._settle(ABORTED + bytes(8)) if self.patience == 0 else Step()

    def receive(self, envelope: Envelope) -> Step:
        kind, client = envelope.body[:1], envelope.sender
        record = envelope.body + client.encode()
        first_time = client not in (self.numbers if kind == NUMBER else self.blinds)
        if not first_time and self.flaw == "raises":
            raise KeyError(client)
        if self.finished:
            return Step(send=tuple(self._answer(client)))
        if kind == NUMBER and self.listed is None and (first_time or self.flaw == "counts repeats"):
            self._apply(record)
            keep = () if self.flaw == "keeps too late" else (record,)
            return self._close(*keep) if len(self.numbers) == len(self.clients) else Step(keep)
        if kind == REVEAL and self.listed is not None and (first_time or self.flaw == "counts repeats"):
            self._apply(record)
            if set(self.blinds) == set(self.listed):
                masked = sum(self.numbers.get(name, 0) - self.blinds[name] for name in self.listed)
                return self._settle(DONE + (masked % 2**64).to_bytes(8, "big"), record)
            return Step((record,))
        if kind == REVEAL and self.flaw != "echoes":
            return Step()  # it has the list: to be told of it again, it would answer again, and so on without end
        return Step(send=tuple(self._answer(client)))


@dataclass
class Collecting:
    """Each client's number is a digit of its own, so that one lost or counted twice is seen in the sum."""

    flaw: str = ""
    clients: int = 10
    values: dict[str, int] = field(default_factory=dict)

    def actors(self, seed: int, rng: np.random.Generator) -> Sequence[Actor]:
        self.values = {f"c{k}": 16**k for k in range(self.clients)}
        lives = dict.fromkeys(self.values, 0)

        def client(name: str, records: list[bytes]) -> Client:
            lives[name] += 1
            private = InsecureTestRNG(repeatable_seed(seed, "client", name, lives[name]))
            return Client(name, self.values[name], private, records, self.flaw)

        names = tuple(self.values)
        pause = 0.5 + float(rng.random())
        return [
            Actor(SERVER, lambda records: Server(names, records, self.flaw), (5.0, 15.0), begin=None, vital=True),
            *(Actor(name, lambda records, name=name: client(name, records), (pause, 3 * pause)) for name in names),
        ]

    def check(self, world: World) -> list[str]:
        found = changed_messages(world)
        for server in world.lives(SERVER):
            if isinstance(server, Server) and server.total is not None:
                expected = sum(self.values[name] for name in server.listed or ())
                if server.total != expected:
                    found.append(f"wrong sum: {server.total:x} for {expected:x}")
        told = {party.total for name in self.values for party in [world.party(name)] if isinstance(party, Client)} - {None}
        return [*found, f"clients disagree: {sorted(map(str, told))}"] if len(told) > 1 else found

    def outcome(self, world: World) -> str:
        server = world.party(SERVER)
        if not isinstance(server, Server) or not server.finished:
            return "stalled"
        return "aborted" if server.aborted else "done" if len(server.listed or ()) == self.clients else "done without some"
