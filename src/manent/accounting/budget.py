"""A budget: how much privacy loss is allowed, to whom, and what that means."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, get_args

from manent.accounting.protocol import NeighboringRelation, check_relation, set_fraction, set_positive
from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.observers import ObserverName, check_observers

PrivacyUnit = Literal["client", "example"]


MOST_DAYS = 36_500


@dataclass(frozen=True)
class Period:
    """The most that may be spent in any so many days: a rate, within what the budget allows for ever.

    It is a rolling window. A study counts in it with all that it reserved from its reservation until so many days after its last
    release; one that may still release counts, however old it is. When the window has passed, only the rate is free again: what
    was spent of the budget stays spent.

    Attributes:
        epsilon: > 0 and finite, at the budget's delta.
        days: > 0, at most 36,500.
    """

    epsilon: float
    days: float

    def __post_init__(self) -> None:
        set_positive(self, "epsilon", "days")
        if self.days > MOST_DAYS:
            raise InvalidInput(f"Period expects at most {MOST_DAYS:,} days; found {self.days:g}. Leave the period out.")

    @property
    def length(self) -> timedelta:
        """The days."""
        return timedelta(days=self.days)

    def to_plain(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {"epsilon": self.epsilon, "days": self.days}


@dataclass(frozen=True)
class Budget:
    """The most (epsilon, delta)-differential privacy that one unit may lose. The first four have no default: each is a promise.

    Attributes:
        epsilon: > 0 and finite.
        delta: in (0, 1); choose it below one over the number of units.
        privacy_unit: whose data are protected together: all of a "client", or one "example".
        neighboring_relation: what may differ: "add_or_remove" one unit, "replace_one" by any other, "zero_out" one contribution.
        against: the observers whom it holds against. None: other clients and the public, and whoever else the noise is to protect
            from (the server, where shares of noise or local noise do). What they learn may cost differently; the dearest counts.
            A named one whom nothing protects from is Refused.
    """

    epsilon: float
    delta: float
    privacy_unit: PrivacyUnit
    neighboring_relation: NeighboringRelation
    # Documents from before there was this field lack it, and so do those of budgets that leave it out.
    against: tuple[ObserverName, ...] | None = field(default=None, metadata={"may_lack": True})

    def __post_init__(self) -> None:
        set_positive(self, "epsilon")
        set_fraction(self, "delta", zero=False, one=False)
        check_unit(self.privacy_unit, "Budget")
        check_relation(self.neighboring_relation, "Budget")
        if self.against is not None:
            object.__setattr__(self, "against", check_observers("Budget", "against", self.against))

    def check_population(self, units: int) -> None:
        """Raises InvalidInput where delta is so large that one of so many units might be published outright."""
        if self.delta * units >= 1:
            raise InvalidInput(
                f"delta {self.delta:g} allows to publish one of {units:,} units outright; "
                f"choose at most {min(1e-6, 1 / (10 * units)):g}."
            )

    def to_plain(self) -> dict[str, Any]:
        """The fields as JSON values; `against` only where it is given."""
        against = {} if self.against is None else {"against": list(self.against)}
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "privacy_unit": self.privacy_unit,
            "neighboring_relation": self.neighboring_relation,
            **against,
        }


def check_period(period: object, budget: Budget) -> None:
    """Raises InvalidInput for anything but a period within a budget, or None."""
    if period is None:
        return
    if not isinstance(period, Period):
        raise InvalidInput(f"Expected Period(epsilon=1.0, days=30), or None for no such cap; found {period!r}.")
    if period.epsilon > budget.epsilon:
        raise InvalidInput(
            f"A period's epsilon lies within the budget's, {budget.epsilon:g}; found {period.epsilon:g}, which never counts. "
            f"Lower it, or leave the period out."
        )


def check_unit(unit: object, owner: str = "Accounting") -> None:
    """Raises InvalidInput, naming the owner, for anything that is not a privacy unit."""
    validate.one_of(owner, "privacy_unit", unit, get_args(PrivacyUnit))
