"""The histogram of a column over all rows of all clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from manent.analytics.columns import bounded, values
from manent.core import validate
from manent.core.examples import Client, Public
from manent.core.protocols import Assignment, ClientContext, Contribution, Released, Report, SumSpec
from manent.core.vectors import Array, Arrays, Block, Entry, Layout, Vector


@final
@dataclass(frozen=True)
class Histogram:
    """Counts the values of a declared column: by code for a coded column, else in equal bins between its public bounds.

    The result holds "counts" float64[bins], and "edges" float32[bins + 1] or, for a coded column, "codes" float32[bins].

    | a value that is                       | counts in             |
    |---------------------------------------|-----------------------|
    | below or above the bounds             | the first or last bin |
    | on the edge between two bins          | the upper one         |
    | missing (NaN)                         | no bin                |
    | not a declared code of a coded column | no bin                |

    Attributes:
        column: its name in the schema.
        bins: how many equal bins, at least 1. A coded column has one bin for each code instead.

    Raises InvalidInput unless bins is a whole number of at least 1.
    """

    column: str
    bins: int = 10

    def __post_init__(self) -> None:
        validate.count("Histogram", "bins", self.bins)

    def sums(self, public: Public) -> tuple[SumSpec, ...]:
        """One sum, "histogram". Raises InvalidInput for an unknown column, or one without bounds and codes."""
        layout = Layout((Block("counts", (Entry("counts", (len(self._cuts(public)["bins"]),)),)),))
        return (SumSpec("histogram", layout, f"counts of {self.column!r} over each client's rows"),)

    def _cuts(self, public: Public) -> dict[str, Array]:
        """What the bins are: "bins", the codes or the lower edges, float32[bins]; and "edges" where the column is not coded."""
        column = public.schema.column(self.column)
        if column.codes:
            return {"bins": np.array(sorted(column.codes), np.float32)}
        edges = np.linspace(*bounded(column, "Histogram"), self.bins + 1, dtype=np.float32)
        return {"bins": edges[:-1], "edges": edges}

    def memory(self, public: Public) -> Layout | None:
        """None: a query keeps nothing at the clients."""
        return None

    def check(self, client: Client) -> None:
        """Raises InvalidInput for a client that lacks the column."""
        values(client, self.column)

    def init(self, public: Public, rng: np.random.Generator) -> Arrays:
        """The bins."""
        return self._cuts(public)

    def assign(self, state: Arrays, round: int, index: int) -> Assignment | None:
        """One sum in the round. The clients are sent the bins."""
        sent = {name: state[name] for name in ("bins", "edges") if name in state}
        return Assignment("histogram", sent) if index == 0 else None

    def answer(
        self,
        assignment: Assignment,
        clients: Sequence[Client],
        memory: Sequence[Vector | None],
        contexts: Sequence[ClientContext],
    ) -> Sequence[Contribution]:
        """Each client's counts, float64[bins]."""
        return [Contribution(_counts(values(client, self.column), assignment.arrays)) for client in clients]

    def apply(self, state: Arrays, assignment: Assignment, released: Released) -> tuple[Arrays, Report]:
        """The counts, and "count", how many values were counted."""
        return {**state, "counts": released.total}, {"count": float(released.total.sum())}

    def result(self, state: Arrays) -> Arrays:
        """ "counts", and "edges" or "codes"; nothing before a sum was released."""
        cuts = {"edges": state["edges"]} if "edges" in state else {"codes": state["bins"]}
        return {"counts": state["counts"], **cuts} if "counts" in state else {}


def _counts(column: Array, arrays: Arrays) -> Array:
    bins = arrays["bins"]
    if "edges" in arrays:
        where = np.clip(np.searchsorted(bins, column, side="right") - 1, 0, len(bins) - 1)
    else:
        where = np.searchsorted(bins, column)
        known = (where < len(bins)) & (bins[np.minimum(where, len(bins) - 1)] == column)
        where = where[known]
    return np.bincount(where, minlength=len(bins)).astype(np.float64)
