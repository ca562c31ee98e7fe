"""A server process: its store, its identity, the round service, and the thread that keeps studies moving."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from manent.core.randomness import PrivateRandom
from manent.core.store import Store
from manent.network.server import documents
from manent.network.server.documents import StudyRecord
from manent.network.server.rosters import Rosters
from manent.network.server.rounds import Rounds, Settings
from manent.network.server.sweeping import Sweeper
from manent.network.trust.identity import Identity
from manent.network.trust.journal import AuditLog, Refusals
from manent.network.trust.people import People
from manent.network.trust.roster import trusted
from manent.network.trust.signing import Verifier
from manent.privacy import Statement
from manent.storage.blobs import Blobs

log = logging.getLogger("manent.server")
TICK, SWEEP = 0.25, 600.0  # seconds


class Watcher(Protocol):
    """Someone who waits for changes in the store, such as the long polls of an HTTP application."""

    def set(self, pulse: int) -> None:
        """The store's pulse is this now; see `documents.pulse`. Called from any thread."""
        ...

    def drain(self) -> None:
        """The server stops: whoever waits is let go. Called from any thread."""
        ...


class Service:
    """Everything that a server process works with.

    Args:
        store: logs and documents, shared by all processes of this server.
        folder: where blobs lie, in "blobs", unless `bucket` is given.
        identity: the server's; in a quick start it signs rosters.
        origins: URLs by which sites reach this process.
        settings: how studies are run.
        consortium: public key by which rosters are signed, 32 bytes; None in a quick start.
        clock: seconds since the epoch.
        random: source of the server's noise; never seeded outside tests.
        bucket: URL of an S3-compatible bucket for blobs.

    Attributes:
        parts: uploads under way.
        failed: the last step's error, for health checks; empty when the step went well.
        ticked: when the last step went well, in seconds since the epoch; 0.0 before the first.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        identity: Identity,
        origins: tuple[str, ...],
        *,
        settings: Settings | None = None,
        consortium: bytes | None = None,
        clock: Callable[[], float] = time.time,
        random: PrivateRandom | None = None,
        bucket: str | None = None,
    ) -> None:
        self.store, self.identity, self.origins, self.clock = store, identity, origins, clock
        self.blobs = Blobs(bucket or folder / "blobs")
        self.rosters = Rosters(store, identity, consortium)
        self.rounds = Rounds(store, self.blobs, self.rosters, clock, settings, random)
        self.parts = self.rounds.parts
        self.people = People(store, clock)
        self.refusals = Refusals(AuditLog(store, clock))
        self.failed, self.ticked = "", 0.0
        self._watchers: list[Watcher] = []
        self._work = threading.Event()
        self._stopping = False

    def verifier(self) -> Verifier:
        """Verifies requests that members of the newest roster have signed."""
        return Verifier(self._member, self.rounds.together, clock=self.clock)

    def newcomers(self) -> Verifier:
        """Verifies requests that are signed by the key they name. That proves that whoever joins holds the key."""
        return Verifier(_named, self.rounds.together, clock=self.clock)

    def _member(self, keyid: str) -> bytes | None:
        with self.store.snapshot() as view:
            return bytes.fromhex(keyid) if keyid in self.rosters.members(view) else None

    def statement(self, study: StudyRecord) -> Statement:
        """A study's statement, which also says who is trusted here about who takes part. Raises InvalidInput while the study has
        no plan.
        """
        signer = self.rosters.signer.hex()
        granted = trusted(signer, signer == self.identity.public_hex)
        return self.rounds.plans.plan(study).statement.deployed(granted)

    def look(self) -> None:
        """Have the ticking thread look for due steps soon, as something may have changed."""
        self._work.set()

    def run(self) -> None:
        """Keep studies moving until `stop`. An error ends neither the thread nor the process: `failed` says what it was."""
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
            except Exception as error:  # it may pass: the thread goes on, and the health check reports the error
                self.failed = f"{type(error).__name__}: {error}"
                log.exception("a step failed")
                time.sleep(1.0)

    def step(self) -> None:
        """Take every step that is due, and wake those who wait for a change."""
        self.rounds.tick()
        self.wake()

    def watch(self, watcher: Watcher) -> None:
        """Tell this watcher of every change from now on, and when the server stops."""
        self._watchers.append(watcher)

    def wake(self) -> None:
        """Tell the watchers how the store stands."""
        with self.store.snapshot() as view:
            pulse = documents.pulse(view)
        for watcher in self._watchers:
            watcher.set(pulse)

    def stop(self) -> None:
        """End `run`, and let go whoever waits for a change."""
        self._stopping = True
        self._work.set()
        for watcher in self._watchers:
            watcher.drain()


def _named(keyid: str) -> bytes | None:
    try:
        found = bytes.fromhex(keyid)
    except ValueError:
        return None
    return found if len(found) == 32 else None
