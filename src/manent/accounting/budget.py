"""A budget: how much privacy loss is allowed, to whom, and what that means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from manent.accounting.events import NeighboringRelation, check_relation
from manent.core.errors import InvalidInput

PrivacyUnit = Literal["client", "example"]


@dataclass(frozen=True)
class Budget:
    """(epsilon, delta)-differential privacy for one unit, at most. Nothing has a default: each changes what is promised.

    Attributes:
        epsilon: > 0.
        delta: in (0, 1); choose it below one over the number of units.
        privacy_unit: whose data are protected together: all of a "client", or one "example".
        neighboring_relation: what may differ: "add_or_remove" one unit, "replace_one" by any other, "zero_out" one contribution.
    """

    epsilon: float
    delta: float
    privacy_unit: PrivacyUnit
    neighboring_relation: NeighboringRelation

    def __post_init__(self) -> None:
        for name, most in (("epsilon", math.inf), ("delta", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < most and math.isfinite(value)):
                wanted = "> 0 and finite" if most == math.inf else "in (0, 1)"
                raise InvalidInput(f"Budget expects {name} {wanted}; found {value!r}.")
            object.__setattr__(self, name, float(value))
        check_unit(self.privacy_unit)
        check_relation(self.neighboring_relation)

    def check_population(self, units: int) -> None:
        """Raises InvalidInput where delta would allow to give away whole units of a population of this size."""
        if self.delta * units >= 1:
            raise InvalidInput(
                f"delta {self.delta:g} allows to publish one of {units:,} units outright; "
                f"choose at most {min(1e-6, 1 / (10 * units)):g}."
            )

    def to_plain(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "privacy_unit": self.privacy_unit,
            "neighboring_relation": self.neighboring_relation,
        }


def check_unit(unit: object) -> None:
    """Raises InvalidInput for anything that is not a privacy unit."""
    if unit not in get_args(PrivacyUnit):
        raise InvalidInput(f"privacy_unit is 'client' or 'example'; found {unit!r}.")
