"""The world keeps the contract of a step, does what the faults say, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest

from manent.core.errors import InvalidInput, ProtocolAbort
from manent.core.parties import Envelope, Step
from manent.storm import Actor, Disk, Faults, Limits, World


class Diarist:
    """Keeps a number, then sends it to its friend; it ends after `pages`. What it receives it notes and may answer."""

    def __init__(self, name, friend, records=(), pages=10, answers=False):
        self.name, self.friend, self.pages, self.answers = name, friend, pages, answers
        self.numbers = [int(r) for r in records if r.isdigit()]
        self.received = []

    @property
    def finished(self):
        return len(self.numbers) >= self.pages

    def deadline(self):
        self.numbers.append(len(self.numbers))
        number = b"%d" % self.numbers[-1]
        return Step((number,), (Envelope(self.name, self.friend, number), Envelope(self.name, self.friend, number + b"x")))

    def receive(self, envelope):
        self.received.append(envelope.body)
        return Step((b"r",), (Envelope(self.name, envelope.sender, b"yes"),) if self.answers and envelope.body != b"yes" else ())


class Still:
    """Says nothing and is done."""

    finished = True

    def __init__(self, name):
        self.name = name
        self.received = []

    def deadline(self):
        return Step()

    def receive(self, envelope):
        self.received.append(envelope.body)
        return Step()


def diaries(faults, seed, **options):
    """Two friends, and for each restart what had been sent and what the log brought back."""
    rebuilt = []

    def build(name, friend, records):
        sent = [int(e.body) for e in world.sent if e.sender == name and e.body.isdigit()]
        rebuilt.append((sent, [int(r) for r in records if r.isdigit()]))
        return Diarist(name, friend, records, **options)

    pairs = [("ann", "bob"), ("bob", "ann")]
    actors = [Actor(name, lambda r, name=name, friend=friend: build(name, friend, r)) for name, friend in pairs]
    world = World(actors, faults, seed)
    world.run()
    return world, rebuilt


HARSH = Faults(drop=0.1, duplicate=0.1, crash=0.2, unsynced=0.5, until=300.0)


def forgotten(seeds):
    """Restarts that do not remember something that had been sent; restarts that remember more than was sent."""
    forgets = more = 0
    for seed in seeds:
        for sent, kept in diaries(HARSH, seed, answers=seed % 2 == 0)[1]:
            forgets += not set(sent) <= set(kept)
            more += bool(set(kept) - set(sent))
    return forgets, more


def test_what_was_sent_was_kept_before():
    forgets, more = forgotten(range(60))
    assert forgets == 0
    assert more > 10  # it also died between the two


def test_a_disk_that_is_never_safe_is_seen_to_forget(monkeypatch):
    monkeypatch.setattr(Disk, "sync", lambda disk: None)
    assert forgotten(range(60))[0] > 10


def test_parties_die_at_every_moment():
    notes = Counter(e.note.split(";")[0] for seed in range(60) for e in diaries(HARSH, seed)[0].trace if e.what == "crashes")
    assert set(notes) == {
        "before it wrote", "while it wrote", "with 0 of 2 sent", "with 1 of 2 sent", "at the end of a step"
    }  # fmt: skip
    assert min(notes.values()) >= 5
    assert sum(diaries(HARSH, seed)[0].met().get("torn write", 0) for seed in range(60)) >= 5


def test_where_nothing_fails_everything_arrives_once_and_the_world_ends():
    world, rebuilt = diaries(Faults.none(), 1)
    assert world.met() == {}
    assert world.violations == world.unfinished() == []
    assert len(rebuilt) == 2
    everything = sorted(b"%d%s" % (n, x) for n in range(10) for x in (b"", b"x"))
    assert sorted(world.party("ann").received) == sorted(world.party("bob").received) == everything
    assert world.now < 60


def test_envelopes_are_lost_repeated_and_overtaken_as_often_as_told():
    def received(**faults):
        lots = [w.party(name).received for w, _ in (diaries(Faults(**faults), s) for s in range(20)) for name in ("ann", "bob")]
        return len([b for lot in lots for b in lot]) / 800, sum(lot != sorted(lot) for lot in lots)

    assert received(drop=1.0)[0] == 0
    assert 0.4 < received(drop=0.5)[0] < 0.6
    assert received(duplicate=1.0)[0] == 4
    assert 1.1 < received(duplicate=0.2)[0] < 1.4
    still, restless = received(delay=(0.01, 0.01)), received(delay=(0.01, 5.0))
    assert still[1] == 0
    assert restless == (1, 40)


def test_a_lost_response_takes_what_goes_back_to_the_sender_alone():
    class Gossip(Still):
        def receive(self, envelope):
            return Step(send=tuple(Envelope("bob", name, b"heard") for name in ("ann", "eve")))

    talk = Actor("ann", lambda r: Diarist("ann", "bob", r))
    world = World(
        [talk, Actor("bob", lambda r: Gossip("bob")), Actor("eve", lambda r: Still("eve"))], Faults(lost_response=1.0), 1
    )
    world.run()
    assert world.party("ann").received == []
    assert len(world.party("eve").received) == 20


def test_a_lost_response_is_a_fault_of_answers_only():
    world, _ = diaries(Faults(lost_response=1.0), 1, answers=True)
    lost = [e for e in world.trace if e.what == "response lost"]
    assert {e.body for e in lost} == {b"yes"}
    assert len(lost) == 40
    assert len(world.party("ann").received) == 20


def test_in_an_outage_nothing_comes_or_goes():
    world, _ = diaries(Faults(outage=1.0, outage_for=(1e6, 1e6)), 1)
    assert world.party("ann").received == world.party("bob").received == []
    world, _ = diaries(Faults(outage=0.3, outage_for=(1.0, 1.0), delay=(0.0, 20.0)), 1)
    out = [(e.who, e.time) for e in world.trace if e.what == "outage"]
    come = [(e.who, e.time) for e in world.trace if e.what == "receives"]
    assert len(out) > 3
    assert come
    assert not any(who == there and 0 <= at - since < 1 for who, at in come for there, since in out)


def test_a_crash_for_good_spares_the_vital_and_the_rest_come_back_until_it_is_calm():
    faults = Faults(crash=1.0, crash_for_good=1.0, until=20.0)
    actors = [Actor("ann", lambda r: Diarist("ann", "bob", r), vital=True), Actor("bob", lambda r: Diarist("bob", "ann", r))]
    world = World(actors, faults, 1)
    world.run()
    assert world.gone("bob")
    assert not world.gone("ann")
    assert len(world.lives("ann")) > 2
    assert world.party("ann").finished
    assert world.violations == []
    assert all(event.time <= 20 for event in world.trace if event.what == "crashes")


def test_a_party_that_never_ends_is_a_violation():
    world = World([Actor("ann", lambda r: Diarist("ann", "bob", r, pages=10**9)), Actor("bob", lambda r: Still("bob"))],
                  Faults.none(), 1, Limits(seconds=100))  # fmt: skip
    world.run()
    (violation,) = world.violations
    assert violation.startswith("no end")
    assert violation.endswith("still waiting: ann")
    world = World([Actor("ann", lambda r: Diarist("ann", "ann", r, pages=10**9))], Faults.none(), 1, Limits(events=50))
    world.run()
    assert "50 events" in world.violations[0]


class Raising(Still):
    finished = False

    def __init__(self, name, error):
        super().__init__(name)
        self.error = error

    def deadline(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "violations"), [(ProtocolAbort("too few"), []), (KeyError("x"), ["error: ann raised KeyError: 'x'"])]
)
def test_an_abort_stops_a_party_and_any_other_error_is_a_violation(error, violations):
    world = World([Actor("ann", lambda r: Raising("ann", error)), Actor("bob", lambda r: Diarist("bob", "ann", r))], Faults(), 1)
    world.run()
    assert "ann" in world.stopped
    assert world.violations == violations
    assert world.party("bob").finished == (violations == [])  # a violation ends the round
    assert not world.gone("ann")


def test_a_damaged_log_stops_the_party_rather_than_begin_another_life(monkeypatch):
    crash = Disk.crash

    def damaging(disk, rng, torn):
        lost = crash(disk, rng, torn)
        if disk.content:
            disk.content[3] ^= 1
        return lost

    monkeypatch.setattr(Disk, "crash", damaging)
    world, rebuilt = diaries(Faults(crash=0.3), 1)
    assert "damaged at byte 0" in world.stopped["ann"]
    assert all(kept == [] for _, kept in rebuilt)


@pytest.mark.parametrize("wrong", [Envelope("bob", "bob", b""), Envelope("ann", "eve", b"")])
def test_nobody_sends_in_anothers_name_or_to_nobody(wrong):
    class Lying(Still):
        finished = False

        def deadline(self):
            self.finished = True
            return Step(send=(wrong,))

    world = World([Actor("ann", lambda r: Lying("ann")), Actor("bob", lambda r: Still("bob"))], Faults(), 1)
    world.run()
    assert world.violations == [f"address: ann sent as {wrong.sender!r} to {wrong.recipient!r}"]
    assert world.party("bob").received == []


@pytest.mark.parametrize("begin", [None, lambda party: Step(send=(Envelope("ann", "bob", b"first"),))])
def test_each_life_begins_as_told_before_it_is_woken(begin):
    actors = [
        Actor("ann", lambda r: Diarist("ann", "bob", r), (5.0, 9.0), begin, vital=True),
        Actor("bob", lambda r: Still("bob")),
    ]
    world = World(actors, Faults(crash=0.3), 1)
    world.run()
    begun, restarts = ([e.time for e in world.trace if (e.who, e.what) == ("ann", what)] for what in ("begins", "restarts"))
    assert restarts
    assert len(begun) == (0 if begin is None else len(restarts) + 1)
    assert len([e for e in world.sent if e.body == b"first"]) <= len(begun)
    waking = [e.time for e in world.trace if e.what == "wakes"]
    assert min(waking) >= 5.0
    assert (min(begun) < 5.0) if begun else world.party("ann").finished


def test_actors_that_cannot_be_are_refused():
    with pytest.raises(InvalidInput, match="different names"):
        World([Actor("ann", lambda r: Still("ann"))] * 2, Faults(), 1)
    with pytest.raises(InvalidInput, match="wake"):
        World([Actor("ann", lambda r: Still("ann"), wake=(0.0, 1.0))], Faults(), 1)
