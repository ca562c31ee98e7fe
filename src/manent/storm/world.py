"""A small world for sans-I/O parties: a virtual clock, a network, and a disk each, all of which fail as the faults say.

One thread, one heap of events and one seeded generator: the same actors, faults and seed give the same course, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from typing import Any

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import Envelope, Party, Step
from manent.core.randomness import repeatable
from manent.storm import trace
from manent.storm.disk import Disk
from manent.storm.faults import Faults, check_span
from manent.storm.trace import Event

STRAGGLING = 4  # exponent of the law of delays: half of the envelopes take less than a sixteenth of the longest delay
COPIES = 3  # most copies of one envelope


@dataclass(frozen=True)
class Actor:
    """A party as the storm needs it.

    Attributes:
        name: the party's.
        build: makes the party from the records of its log: none at the start, all that were kept at each restart. With a factory
            that gives every life other private randomness, the storm finds parties that draw anew what they should have kept.
        wake: least and most seconds between two calls of `deadline`: for a server the length of a phase, for a client how long it
            waits for an answer.
        begin: the party's first step in every life, soon after it is built: a server makes its calls, a client sends its first
            message, or its last again. None: it does nothing before it is first woken.
        vital: whether it always comes back from a crash. Set it if the others would wait for this party for ever: that is a
            violation, and parties that may have to wait so are built to give up.
    """

    name: str
    build: Callable[[list[bytes]], Party]
    wake: tuple[float, float] = (1.0, 2.0)
    begin: Callable[[Any], Step] | None = lambda party: party.deadline()
    vital: bool = False


@dataclass(frozen=True)
class Limits:
    """When a world is ended that does not end by itself, which is a failure.

    Attributes:
        seconds: virtual.
        events: envelopes, wakes and restarts.
    """

    seconds: float = 3600.0
    events: int = 100_000


class _Host:
    """Where a party lives. Its disk outlasts it."""

    def __init__(self, actor: Actor) -> None:
        self.actor, self.disk = actor, Disk()
        self.party: Party | None = None  # None while it is down
        self.lives: list[Party] = []
        self.gone = False
        self.unreachable_until = 0.0

    @property
    def waiting(self) -> bool:
        """Whether the party still has a part to play."""
        return not self.gone and (self.party is None or not self.party.finished)


class World:
    """Runs actors under faults until nothing is left to happen.

    It keeps the contract of `Step` for its parties: what is to be kept is on disk before anything is sent. A party that has
    finished is no longer woken, but still receives. A `ProtocolAbort` out of a party stops it for good (`stopped`); any other
    error is a violation.

    Attributes:
        faults: what may go wrong.
        now: virtual seconds.
        trace: what happened.
        sent: every envelope that left its sender, whatever became of it.
        stopped: parties that aborted with an error, and why.
        violations: what no party may do, whatever its protocol.
    """

    def __init__(self, actors: Sequence[Actor], faults: Faults, seed: int, limits: Limits | None = None) -> None:
        """Raises InvalidInput if two actors have the same name, or one wakes without pause."""
        names = [actor.name for actor in actors]
        if len(set(names)) < len(names):
            raise InvalidInput(f"A world expects actors of different names; found {', '.join(names)}. Rename some.")
        for actor in actors:
            check_span(f"Actor {actor.name!r}", "wake", actor.wake, zero=False)
        self.now = 0.0
        self.trace: list[Event] = []
        self.sent: list[Envelope] = []
        self.stopped: dict[str, str] = {}
        self.violations: list[str] = []
        self.faults, self._calm, self._limits = faults, faults.calm(), limits or Limits()
        self._rng = repeatable(seed, "storm: world")
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._hosts = {actor.name: _Host(actor) for actor in actors}

    # What a scenario asks afterwards.

    def party(self, name: str) -> Party | None:
        """The party in its last life, whether or not it still lives; None if it was never built."""
        lives = self._hosts[name].lives
        return lives[-1] if lives else None

    def lives(self, name: str) -> Sequence[Party]:
        """Every life of the party, in order; each restart begins one."""
        return tuple(self._hosts[name].lives)

    def gone(self, name: str) -> bool:
        """Whether it crashed for good."""
        return self._hosts[name].gone and name not in self.stopped

    def unfinished(self) -> list[str]:
        """Parties that neither finished, stopped, nor crashed for good."""
        return [name for name, host in self._hosts.items() if host.waiting]

    def met(self) -> dict[str, int]:
        """How often each fault came about."""
        counts = Counter(event.what for event in self.trace)
        return {what: counts[what] for what in trace.FAULTS if counts[what]}

    # The course of things.

    def run(self) -> None:
        """Let everything happen, once. It ends with the first violation of the world's own rules; the trace's last line is its
        cause.
        """
        for host in self._hosts.values():
            self._build(host)
        events = 0
        while self._heap and events < self._limits.events and not self.violations:
            at, _, action = heappop(self._heap)
            if at > self._limits.seconds:
                break
            self.now = at
            events += 1
            action()
        if not self.violations and (unfinished := self.unfinished()):
            self.violations.append(f"no end: after {self.now:.0f} s and {events:,} events still waiting: {', '.join(unfinished)}")

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._scheduled += 1
        heappush(self._heap, (self.now + seconds, self._scheduled, action))

    @property
    def _present(self) -> Faults:
        return self.faults if self.now < self.faults.until else self._calm

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability

    def _between(self, span: tuple[float, float]) -> float:
        return span[0] + (span[1] - span[0]) * float(self._rng.random())

    def _note(self, what: str, who: str, note: str = "") -> None:
        self.trace.append(Event(self.now, what, who, note=note))

    # A party's life.

    def _build(self, host: _Host) -> None:
        """Begin a life: the first, or one after a crash."""
        name = host.actor.name

        def born() -> Step:
            """Recover the log, and build the party from it."""
            records = host.disk.recover()
            self._note(trace.RESTARTS if host.lives else trace.STARTS, name, f"records {len(records)}" if records else "")
            host.party = host.actor.build(records)
            host.lives.append(host.party)
            return Step()

        self._guarded(host, born)
        if host.party is not None and not host.party.finished:
            life, begin = len(host.lives), host.actor.begin
            if begin is None:
                self._rest(host, life)
            else:
                soon = self._between((0.0, host.actor.wake[0]))
                self._after(soon, partial(self._wake, host, life, trace.BEGINS, partial(begin, host.party)))

    def _rest(self, host: _Host, life: int) -> None:
        if host.party is not None:
            self._after(self._between(host.actor.wake), partial(self._wake, host, life, trace.WAKES, host.party.deadline))

    def _wake(self, host: _Host, life: int, what: str, call: Callable[[], Step]) -> None:
        party = host.party
        if party is None or life != len(host.lives) or party.finished:
            return
        if self._happens(self._present.outage):
            host.unreachable_until = self.now + self._between(self._present.outage_for)
            self._note(trace.OUTAGE, host.actor.name, f"until {host.unreachable_until:.3f}")
        self._note(what, host.actor.name)
        self._take(host, call)
        if host.party is party and not party.finished:
            self._rest(host, life)

    def _guarded(self, host: _Host, call: Callable[[], Step]) -> Step | None:
        """What the party asks for; None if it raised, after which it takes no part."""
        name = host.actor.name
        try:
            return call()
        except ProtocolAbort as abort:
            self.stopped[name] = str(abort)
            self._note(trace.STOPS, name, str(abort))
        except Exception as error:  # noqa: BLE001 - whatever a party raises is a finding
            self.violations.append(f"error: {name} raised {type(error).__name__}: {error}")
            self.stopped[name] = self.violations[-1]
            self._note(trace.FAILS, name, self.violations[-1])
        host.party, host.gone = None, True
        return None

    def _take(self, host: _Host, call: Callable[[], Step], answered: Envelope | None = None) -> None:
        """One step of a party: first what it keeps, then what it sends. It may die on the way."""
        step = self._guarded(host, call)
        if step is None:
            return
        # The moments at which it may die: two around the write, then before each send, and after the last.
        writing = 2 if step.keep else 0
        dies = int(self._rng.integers(writing + len(step.send) + 1)) if self._happens(self._present.crash) else -1
        if writing and dies == 0:
            return self._crash(host, "before it wrote")
        if step.keep:
            host.disk.append(step.keep)
            self._note(trace.KEEPS, host.actor.name, f"records {len(step.keep)}, {sum(map(len, step.keep)):,} B")
            if dies == 1:
                return self._crash(host, "while it wrote")
        if step.send or not self._happens(self._present.unsynced):
            host.disk.sync()
        unheard = answered.sender if answered is not None and self._happens(self._present.lost_response) else None
        for number, envelope in enumerate(step.send):
            if dies == writing + number:
                return self._crash(host, f"with {number} of {len(step.send)} sent")
            self._send(host, envelope, envelope.recipient == unheard)
        if dies == writing + len(step.send):
            self._crash(host, "at the end of a step")

    def _crash(self, host: _Host, when: str) -> None:
        name, faults = host.actor.name, self._present
        host.party = None
        unsafe = host.disk.unsafe
        lost = host.disk.crash(self._rng, faults.torn)
        self._note(trace.CRASHES, name, f"{when}; {lost:,} of {unsafe:,} unsafe bytes lost" if unsafe else when)
        if 0 < lost < unsafe:
            self._note(trace.TORN, name)
        if not host.actor.vital and self._happens(faults.crash_for_good):
            host.gone = True
            self._note(trace.GONE, name)
        else:
            self._after(self._between(faults.restart_after), partial(self._build, host))

    # The network.

    def _send(self, host: _Host, envelope: Envelope, lost: bool) -> None:
        if envelope.sender != host.actor.name or envelope.recipient not in self._hosts:
            self.violations.append(f"address: {host.actor.name} sent as {envelope.sender!r} to {envelope.recipient!r}")
            self._note(trace.FAILS, host.actor.name, self.violations[-1])
            return
        faults = self._present
        self.sent.append(envelope)
        self.trace.append(trace.of(self.now, trace.SENDS, envelope))
        if lost:
            self.trace.append(trace.of(self.now, trace.UNANSWERED, envelope))
        elif self.now < host.unreachable_until:
            self.trace.append(trace.of(self.now, trace.UNREACHABLE, envelope))
        elif self._happens(faults.drop):
            self.trace.append(trace.of(self.now, trace.DROPPED, envelope))
        else:
            self._carry(envelope)
            for _ in range(COPIES):
                if not self._happens(faults.duplicate):
                    break
                self.trace.append(trace.of(self.now, trace.REPEATED, envelope))
                self._carry(envelope)

    def _carry(self, envelope: Envelope) -> None:
        minimum, most = self._present.delay
        self._after(minimum + (most - minimum) * float(self._rng.random()) ** STRAGGLING, partial(self._deliver, envelope))

    def _deliver(self, envelope: Envelope) -> None:
        host = self._hosts[envelope.recipient]
        if host.party is None or self.now < host.unreachable_until:
            self.trace.append(trace.of(self.now, trace.UNREACHABLE, envelope, "it is down" if host.party is None else ""))
            return
        self.trace.append(trace.of(self.now, trace.RECEIVES, envelope))
        self._take(host, partial(host.party.receive, envelope), envelope)
