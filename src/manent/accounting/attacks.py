"""What a guarantee means for an attack: of members, how many it finds at most, if so many of the others are taken for members.

| given | bound on the true positive rate t at a false positive rate f |
|---|---|
| (epsilon, delta) | t <= e^epsilon f + delta, and t <= 1 - e^-epsilon (1 - delta - f) |
| an event | the smallest of these over several deltas, each with its own epsilon |
| no guarantee, or an infinite epsilon | 1 |

Kairouz, Oh and Viswanath 2015, "The Composition Theorem for Differential Privacy", Theorem 2.1: the two inequalities say the
same as (epsilon, delta), so for that pair alone no bound is smaller. It holds for every attack on what the guarantee is about,
whatever it knows beside. (The first inequality is the definition, for the attack's verdict; the second is it for the opposite.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from manent.accounting.accountants import Accountant, epsilon
from manent.accounting.protocol import Event, NeighboringRelation
from manent.core import validate

RATES = (0.01, 0.001)
"""The false positive rates that are told."""
DELTAS = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.2)
"""What is tried beside the delta of a guarantee: at large epsilons a larger delta bounds an attack better."""
_INTERVAL = 1e-3  # of the PLD for them: quick, and an upper bound still


@dataclass(frozen=True)
class Attack:
    """The best that an attack can do at one rate of false alarms.

    Attributes:
        false_positives: share of the others that it takes for members, in [0, 1].
        true_positives: the largest share of the members that it finds, in [0, 1].
    """

    false_positives: float
    true_positives: float

    def __str__(self) -> str:
        # Rounded up, so that what is printed is a bound too.
        found = math.ceil(self.true_positives * 1e4 - 1e-9) / 100
        return f"wrong about {100 * self.false_positives:g}% of others finds at most {found:g}% of members"


def true_positives(epsilon: float, delta: float, false_positives: float) -> float:
    """The largest true positive rate of any attack on an (epsilon, delta)-private release, at this false positive rate.

    Args:
        epsilon: >= 0; infinity for no guarantee.
        delta, false_positives: in [0, 1].

    Raises InvalidInput for values out of range.
    """
    if epsilon != math.inf:
        validate.not_negative("true_positives", "epsilon", epsilon)
    validate.fraction("true_positives", "delta", delta)
    validate.fraction("true_positives", "false_positives", false_positives)
    if false_positives == 0:
        return float(delta)
    caught = math.exp(min(epsilon + math.log(false_positives), 1.0)) + delta
    missed = math.exp(-epsilon) * max(0.0, 1 - delta - false_positives)
    return float(max(false_positives, min(1.0, caught, 1 - missed)))  # guessing finds as many members as others


def within(epsilon: float, delta: float) -> tuple[Attack, ...]:
    """The best attacks at `RATES` on an (epsilon, delta)-private release."""
    return tuple(Attack(rate, true_positives(epsilon, delta, rate)) for rate in RATES)


def against(
    event: Event, delta: float, neighboring_relation: NeighboringRelation, accountant: Accountant = "auto"
) -> tuple[Attack, ...]:
    """The best attacks at `RATES` on an event: by its epsilon at this delta and at `DELTAS`, whichever allows the least.

    Raises what `epsilon` raises.
    """
    pairs = [(epsilon(event, delta, neighboring_relation, accountant).epsilon, delta)]
    interval = min(_INTERVAL, max(pairs[0][0] / 1e3, 1e-6))
    for other in DELTAS:
        found = epsilon(event, other, neighboring_relation, accountant, interval=interval)
        pairs.append((found.epsilon, other))
    return tuple(Attack(rate, min(true_positives(*pair, rate) for pair in pairs)) for rate in RATES)
