"""What is put into the storm: a scenario makes the actors of one round, and judges it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.parties import Envelope
from manent.storm.world import Actor, World


class Scenario(Protocol):
    """One round. It is made anew for every seed, so it may keep what `actors` drew, to check against it."""

    def actors(self, seed: int, rng: np.random.Generator) -> Sequence[Actor]:
        """The parties. Everything random about them comes from `seed` or `rng`, also their private randomness."""
        ...

    def check(self, world: World) -> list[str]:
        """The invariants that were violated, each as `name` or `name: what was found`. The world adds its own."""
        ...

    def outcome(self, world: World) -> str:
        """How the round ended, in a few words by which rounds are counted: "done", "aborted: too few answered"."""
        ...


ScenarioFactory = Callable[[], Scenario]

SCENARIOS: dict[str, ScenarioFactory] = {}
"""Factories by name; the package fills it, a line for each."""


def scenario(name: str) -> ScenarioFactory:
    """The factory of this name.

    Raises:
        InvalidInput: if there is none.
    """
    if name not in SCENARIOS:
        known = ", ".join(sorted(SCENARIOS)) or "none"
        raise InvalidInput(f"There is no scenario {name!r}; there is: {known}.")
    return SCENARIOS[name]


def first_byte(envelope: Envelope) -> bytes:
    """The first byte of a message, which is usually its type."""
    return envelope.body[:1]


def changed_messages(world: World, slot: Callable[[Envelope], bytes] = first_byte) -> list[str]:
    """Check the law of retries: from one party to another there is at most one message for each slot, however often it is sent.

    Returns one violation for each pair of parties and slot for which different bytes left the sender.
    """
    seen: dict[tuple[str, str, bytes], bytes] = {}
    found: dict[tuple[str, str, bytes], str] = {}
    for envelope in world.sent:
        key = (envelope.sender, envelope.recipient, slot(envelope))
        if seen.setdefault(key, envelope.body) != envelope.body and key not in found:
            found[key] = f"changed message: {envelope.sender} sent {envelope.recipient} two different messages {key[2].hex()}"
    return list(found.values())
