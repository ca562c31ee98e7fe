"""A server process: its store, its identity, the round service, and the thread that keeps studies moving."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from manent.core.randomness import PrivateRandom
from manent.core.store import Store
from manent.network.server import documents
from manent.network.server.documents import StudyRecord
from manent.network.server.rosters import Rosters
from manent.network.server.rounds import Rounds, Settings
from manent.network.server.sweeping import Sweeper
from manent.network.server.waiting import Pulse
from manent.network.trust.identity import Identity
from manent.network.trust.journal import AuditLog, Refusals
from manent.network.trust.people import People
from manent.network.trust.roster import trusted
from manent.network.trust.signing import Verifier
from manent.privacy import Statement
from manent.storage.blobs import Blobs, Parts

log = logging.getLogger("manent.server")
TICK, SWEEP = 0.25, 600.0  # seconds


@dataclass
class Service:
    """Everything that a server process works with.

    Attributes:
        origins: URLs by which sites reach it.
        failed: an error in the ticking thread, for health checks.
    """

    store: Store
    blobs: Blobs
    parts: Parts
    identity: Identity
    rosters: Rosters
    rounds: Rounds
    origins: tuple[str, ...]
    people: People
    refusals: Refusals
    clock: Callable[[], float] = time.time
    pulse: Pulse = field(default_factory=Pulse)
    failed: str = ""
    ticked: float = 0.0
    _work: threading.Event = field(default_factory=threading.Event)
    _stopping: bool = False

    @classmethod
    def build(
        cls,
        store: Store,
        folder: Path,
        identity: Identity,
        origins: tuple[str, ...],
        settings: Settings | None = None,
        consortium: bytes | None = None,
        clock: Callable[[], float] = time.time,
        random: PrivateRandom | None = None,
        bucket: str | None = None,
    ) -> Service:
        """A service whose blobs lie in a folder; or in a bucket, by its URL."""
        blobs = Blobs(bucket or folder / "blobs")
        rosters = Rosters(store, identity, consortium)
        rounds = Rounds(store, blobs, rosters, clock, settings, random)
        known = People(store, clock), Refusals(AuditLog(store, clock))
        return cls(store, blobs, rounds.parts, identity, rosters, rounds, origins, *known, clock)

    def verifier(self) -> Verifier:
        """Takes requests that members of the newest roster have signed."""
        return Verifier(self._member, self.rounds.together, clock=self.clock)

    def newcomers(self) -> Verifier:
        """Takes requests that are signed by the key that they name: it proves that who joins holds it."""
        return Verifier(_named, self.rounds.together, clock=self.clock)

    def _member(self, keyid: str) -> bytes | None:
        with self.store.snapshot() as view:
            return bytes.fromhex(keyid) if keyid in self.rosters.members(view) else None

    def statement(self, study: StudyRecord) -> Statement:
        """A study's statement, with what is trusted here about who takes part. Raises InvalidInput while it has none."""
        signer = self.rosters.signer.hex()
        granted = trusted(signer, signer == self.identity.public_hex)
        return self.rounds.plans.plan(study).statement.deployed(granted)

    def look(self) -> None:
        """Something may have changed: look at it soon."""
        self._work.set()

    def run(self) -> None:
        """Keep studies moving until `stop`."""
        swept, sweeper = -math.inf, Sweeper(self.store, self.blobs, self.rounds.parties)
        while not self._stopping:
            self._work.wait(TICK)
            self._work.clear()
            try:
                self.step()
                if time.monotonic() - swept > SWEEP:
                    swept = time.monotonic()
                    sweeper.sweep(swept)
                self.failed, self.ticked = "", self.clock()
            except Exception as error:  # the thread goes on: whatever it is may pass, and health tells of it meanwhile
                self.failed = f"{type(error).__name__}: {error}"
                log.exception("a step failed")
                time.sleep(1.0)

    def step(self) -> None:
        """Take every step that is due, and wake those who wait for a change."""
        self.rounds.tick()
        with self.store.snapshot() as view:
            self.pulse.set(documents.pulse(view))

    def stop(self) -> None:
        self._stopping = True
        self._work.set()
        self.pulse.drain()


def _named(keyid: str) -> bytes | None:
    try:
        found = bytes.fromhex(keyid)
    except ValueError:
        return None
    return found if len(found) == 32 else None
