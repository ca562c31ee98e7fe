"""A budget: how much privacy loss is allowed, to whom, and what that means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from manent.accounting.protocol import NeighboringRelation, check_relation, set_fraction, set_positive
from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.observers import ObserverName, check_observers

PrivacyUnit = Literal["client", "example"]


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


def check_unit(unit: object, owner: str = "Accounting") -> None:
    """Raises InvalidInput, naming the owner, for anything that is not a privacy unit."""
    validate.one_of(owner, "privacy_unit", unit, get_args(PrivacyUnit))
