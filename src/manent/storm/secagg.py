"""Secure aggregation in the storm. Whatever happens, the sum is that of the survivors, or there is none.

Every client's vector is one-hot. So a client that is lost from the sum shows as a 0, and one that is counted twice as a 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manent.core.errors import Refused
from manent.core.parties import SERVER, Step
from manent.core.randomness import repeatable_seed
from manent.crypto.identity import SigningKey
from manent.crypto.random import InsecureTestRNG
from manent.storm.scenarios import changed_messages
from manent.storm.world import Actor, World
from manent.summation.parties.call import Roster
from manent.summation.parties.wire import Kind
from manent.summation.secagg import Call, Expected, SecAggClient, SecAggServer, Terms, parameters
from manent.summation.secagg.parameters import Adversary

SUITES = (1, 1, 1, 1, 1, 1, 1, 2, 2, 3)
KIND_AT = 4  # of a message's bytes


class SecAggScenario:
    """One attempt with 3 to 9 clients. Graph, adversary, suite and ring are drawn at random."""

    def actors(self, seed: int, rng: np.random.Generator) -> Sequence[Actor]:
        """The server and the clients."""
        count = int(rng.integers(3, 10))
        keys = [SigningKey(InsecureTestRNG(repeatable_seed(seed, "identity", i)).bytes(32)) for i in range(count)]
        roster = Roster.of(1, [key.public for key in keys])
        terms = _terms(count, rng)
        self.call = Call(terms, bytes(32), "train", 1, 1, roster.number, roster.root, bytes(32), rng.bytes(16))
        expected = Expected(bytes(32), "train", 1, bytes(32), terms, self.call.beacon)
        self.places = {key.public.hex(): i for i, key in enumerate(keys)}
        server = Actor(
            SERVER,
            lambda records: SecAggServer(self.call, roster, records),
            wake=(20.0, 40.0),
            begin=SecAggServer.start,
            vital=True,
        )
        return [server, *(self._client(seed, key, roster, expected) for key in keys)]

    def _client(self, seed: int, key: SigningKey, roster: Roster, expected: Expected) -> Actor:
        lives = [0]
        vector = np.zeros(expected.terms.size, np.int64)
        vector[self.places[key.public.hex()]] = 1

        def build(records: list[bytes]) -> SecAggClient:
            lives[0] += 1  # every life draws other secrets, so a client that draws a secret anew instead of keeping it is noticed
            random = InsecureTestRNG(repeatable_seed(seed, "private", key.public.hex(), lives[0]))
            return SecAggClient(key, roster, expected, random, records)

        def begin(client: SecAggClient) -> Step:
            return client.contribute(vector) if client.needs_vector else client.deadline()

        return Actor(key.public.hex(), build, wake=(3.0, 6.0), begin=begin)

    def check(self, world: World) -> list[str]:
        """What is wrong: there is at most one sum, with every survivor once, and with everyone whose upload was acknowledged."""
        found = changed_messages(world, lambda envelope: envelope.body[KIND_AT : KIND_AT + 33])
        found = [text for text in found if f" {Kind.ABORT:02x}" not in text]
        sums = {}
        for life in world.lives(SERVER):
            if isinstance(life, SecAggServer) and life.phase == "done":
                sums[life.total.tobytes()] = life
        if len(sums) > 1:
            found.append(f"two sums: {len(sums)} lives of the server formed different ones")
        for server in sums.values():
            found += self._check_sum(world, server)
        return found

    def _check_sum(self, world: World, server: SecAggServer) -> list[str]:
        total = server.total
        survivors = {self.places[identity.hex()] for identity in server.survivors}
        found = []
        if (total == 2).any():
            found.append(f"double: the sum is {total.tolist()}")
        elif set(np.flatnonzero(total == 1).tolist()) != survivors or int(np.abs(total).sum()) != len(survivors):
            found.append(f"wrong sum: {total.tolist()}, the survivors are {sorted(survivors)}")
        told = {e.recipient for e in world.sent if e.sender == SERVER and e.body[KIND_AT] == Kind.RECEIVED}
        lost = sorted(self.places[name] for name in told if self.places[name] not in survivors)
        if lost:
            found.append(f"lost: uploads of {lost} were acknowledged, and are not in the sum")
        if len(survivors) < self.call.terms.minimum:
            found.append(f"too few: a sum of {len(survivors)}, at least {self.call.terms.minimum} were agreed on")
        return found

    def outcome(self, world: World) -> str:
        """How the attempt ended, for the count of outcomes."""
        server = world.party(SERVER)
        if isinstance(server, SecAggServer) and server.phase == "done":
            everyone = len(server.survivors) == len(self.places)
            return "done, everyone" if everyone else "done, some vanished"
        return "aborted"


def _terms(count: int, rng: np.random.Generator) -> Terms:
    adversary: Adversary = "active" if rng.random() < 0.7 else "curious"
    dropped = float(rng.choice([0.0, 0.2, 0.34]))
    try:
        choice = parameters.find(count, 0.0, dropped, adversary, eta=1, complete=bool(rng.random() < 0.6))
    except Refused:
        choice = parameters.find(count, 0.0, 0.0, adversary, complete=True)
    minimum = int(rng.integers(choice.threshold, count + 1)) if rng.random() < 0.3 else choice.threshold
    bits, size = int(rng.choice([2, 9, 16, 26, 40, 63])), count + int(rng.integers(0, 5))
    return Terms(
        clients=count,
        degree=choice.degree,
        threshold=choice.threshold,
        minimum=minimum,
        size=size,
        bits=max(bits, 2 + count.bit_length()),
        corrupt=0,
        dropped=round(dropped * 1_000_000),
        suite=int(rng.choice(SUITES)),
        adversary=adversary,
    )
