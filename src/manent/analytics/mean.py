"""The mean of a column over all rows of all clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from manent.analytics.columns import bounded, values
from manent.core.examples import Client, Public
from manent.core.protocols import Assignment, ClientContext, Contribution, Released, Report, SumSpec
from manent.core.vectors import Arrays, Layout, Vector, scalar


@final
@dataclass(frozen=True)
class Mean:
    """The mean of a declared column's values, clipped to its public bounds: their sum divided by their count.

    The result holds "mean", in the column's unit, and "count". Rows without a value are left out. Where no row has one, the mean
    is NaN.

    Attributes:
        column: its name in the schema.
    """

    column: str

    def sums(self, public: Public) -> tuple[SumSpec, ...]:
        """One sum, "mean". Raises InvalidInput for an unknown column, or one without bounds."""
        bounded(public.schema.column(self.column), "Mean")
        layout = Layout((scalar("sum"), scalar("count")))
        return (SumSpec("mean", layout, f"sum and count of {self.column!r} over each client's rows"),)

    def memory(self, public: Public) -> Layout | None:
        """None: a query keeps nothing at the clients."""
        return None

    def check(self, client: Client) -> None:
        """Raises InvalidInput for a client that lacks the column."""
        values(client, self.column)

    def init(self, public: Public, rng: np.random.Generator) -> Arrays:
        """ "bounds", float32[2]."""
        return {"bounds": np.array(bounded(public.schema.column(self.column), "Mean"), np.float32)}

    def assign(self, state: Arrays, round: int, index: int) -> Assignment | None:
        """One sum in the round. The clients are sent the bounds."""
        return Assignment("mean", {"bounds": state["bounds"]}) if index == 0 else None

    def answer(
        self,
        assignment: Assignment,
        clients: Sequence[Client],
        memory: Sequence[Vector | None],
        contexts: Sequence[ClientContext],
    ) -> Sequence[Contribution]:
        """Each client's sum and count, float64[2]."""
        low, high = assignment.arrays["bounds"]
        columns = [np.clip(values(client, self.column), low, high) for client in clients]
        return [Contribution(np.array([column.sum(), len(column)])) for column in columns]

    def apply(self, state: Arrays, assignment: Assignment, released: Released) -> tuple[Arrays, Report]:
        """ "mean" and "count"."""
        total, count = released.total
        mean = total / count if count > 0 else np.nan
        report = {"mean": float(mean), "count": float(count)}
        return {**state, **{name: np.array(value) for name, value in report.items()}}, report

    def result(self, state: Arrays) -> Arrays:
        """ "mean" and "count"; nothing before a sum was released."""
        return {name: state[name] for name in ("mean", "count") if name in state}
