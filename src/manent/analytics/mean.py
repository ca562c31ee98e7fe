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
    """Sum and count of a declared column's values, clipped to its public bounds; their ratio is the mean.

    Result: "mean" (in the column's unit) and "count". Rows where the value is missing are left out.
    """

    column: str

    def sums(self, public: Public) -> tuple[SumSpec, ...]:
        bounded(public.schema.column(self.column), "Mean")
        layout = Layout((scalar("sum"), scalar("count")))
        return (SumSpec("mean", layout, f"sum and count of {self.column!r} over each client's rows"),)

    def memory(self, public: Public) -> Layout | None:
        return None

    def check(self, client: Client) -> None:
        values(client, self.column)

    def init(self, public: Public, rng: np.random.Generator) -> Arrays:
        return {"bounds": np.array(bounded(public.schema.column(self.column), "Mean"), np.float32)}

    def assign(self, state: Arrays, round: int, index: int) -> Assignment | None:
        return Assignment("mean", {"bounds": state["bounds"]}) if index == 0 else None

    def answer(
        self,
        assignment: Assignment,
        clients: Sequence[Client],
        memory: Sequence[Vector | None],
        contexts: Sequence[ClientContext],
    ) -> Sequence[Contribution]:
        low, high = assignment.arrays["bounds"]
        columns = [np.clip(values(client, self.column), low, high) for client in clients]
        return [Contribution(np.array([column.sum(), len(column)])) for column in columns]

    def apply(self, state: Arrays, assignment: Assignment, released: Released) -> tuple[Arrays, Report]:
        total, count = released.total
        mean = total / count if count > 0 else np.nan
        report = {"mean": float(mean), "count": float(count)}
        return {**state, **{name: np.array(value) for name, value in report.items()}}, report

    def result(self, state: Arrays) -> Arrays:
        return {name: state[name] for name in ("mean", "count") if name in state}
