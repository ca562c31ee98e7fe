"""Many rounds, one for each seed: how they ended, and which seeds fail."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import Any

from manent.core.errors import ManentError
from manent.core.randomness import repeatable
from manent.storm.faults import Faults
from manent.storm.scenarios import ScenarioFactory
from manent.storm.world import Limits, World


@dataclass(frozen=True)
class Verdict:
    """One round.

    Attributes:
        seed: which determines the round.
        outcome: in the scenario's words.
        violations: the invariants that were violated; empty if all hold.
        met: how often each fault came about.
    """

    seed: int
    outcome: str
    violations: tuple[str, ...]
    met: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """A campaign.

    Attributes:
        rounds: how many were run.
        outcomes: rounds by how they ended, most frequent first.
        failures: verdicts with violations, by seed.
        met: how often each fault came about.
    """

    rounds: int
    outcomes: dict[str, int]
    failures: tuple[Verdict, ...]
    met: dict[str, int]

    def violations(self) -> dict[str, int]:
        """Rounds in which each invariant was violated, by its name: the words before the colon."""
        return _ordered(Counter(name for v in self.failures for name in {text.partition(":")[0] for text in v.violations}))


def play(
    factory: ScenarioFactory, seed: int, faults: Faults | None = None, limits: Limits | None = None
) -> tuple[World, Verdict]:
    """One round, determined by its seed. The seed also draws the faults, unless they are given."""
    scenario = factory()
    faults = Faults.draw(repeatable(seed, "storm: faults")) if faults is None else faults
    world = World(scenario.actors(seed, repeatable(seed, "storm: scenario")), faults, seed, limits)
    world.run()
    try:
        found, outcome = scenario.check(world), scenario.outcome(world)
    except Exception as error:  # noqa: BLE001 - the seed must not be lost with it
        found, outcome = [f"unchecked: the scenario's own check raised {type(error).__name__}: {error}"], "unchecked"
    return world, Verdict(seed, outcome, (*world.violations, *found), world.met())


def run(
    factory: ScenarioFactory,
    seeds: Sequence[int],
    faults: Faults | None = None,
    limits: Limits | None = None,
    workers: int = 1,
    told: Callable[[Verdict], None] = lambda verdict: None,
) -> Outcome:
    """Play a round for each seed.

    Args:
        factory: makes the scenario, once for each round.
        faults: the same for all rounds; None lets each round's seed draw its own.
        limits: on each round.
        workers: forked processes; the outcome does not depend on their number.
        told: called with every verdict as it arrives, in any order.

    Raises:
        ManentError: if a worker died.
    """
    outcomes, met, failures = Counter[str](), Counter[str](), list[Verdict]()

    def one(seed: int) -> Verdict:
        return play(factory, seed, faults, limits)[1]

    for verdict in map(one, seeds) if workers <= 1 else _forked(one, seeds, workers):
        outcomes[verdict.outcome] += 1
        met.update(verdict.met)
        if verdict.violations:
            failures.append(verdict)
        told(verdict)
    return Outcome(len(seeds), _ordered(outcomes), tuple(sorted(failures, key=lambda v: v.seed)), _ordered(met))


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _forked(one: Callable[[int], Verdict], seeds: Sequence[int], workers: int) -> Iterator[Verdict]:
    """The verdicts, in any order, from processes that each take every n-th seed. They travel as JSON."""
    context = multiprocessing.get_context("fork")

    def work(mine: Sequence[int], pipe: Connection) -> None:
        for seed in mine:
            pipe.send_bytes(json.dumps(asdict(one(seed))).encode())

    left: dict[Any, int] = {}
    processes = []
    try:
        for number in range(workers):
            ours, theirs = context.Pipe(duplex=False)
            mine = seeds[number::workers]
            process = context.Process(target=work, args=(mine, theirs), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            left[ours] = len(mine)
        while any(left.values()):
            for ready in connection.wait([pipe for pipe, count in left.items() if count]):
                try:
                    plain = json.loads(ready.recv_bytes())  # type: ignore[union-attr]
                except EOFError:
                    raise ManentError(f"A worker died with {left[ready]} rounds to go. Run them with one worker.") from None
                left[ready] -= 1
                yield Verdict(plain["seed"], plain["outcome"], tuple(plain["violations"]), plain["met"])
    finally:
        for process in processes:
            process.terminate()
            process.join()
