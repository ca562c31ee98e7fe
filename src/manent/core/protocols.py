"""What the parts of a study are to each other. Engines know algorithms, layers, summations and models only by these protocols.

The optional members of a part, and their defaults, are in a class of traits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import getattr_static
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from manent.core.errors import Refused
from manent.core.examples import Client, Examples, Public
from manent.core.layers import Form, Gathering, Layer, LayerTraits, Stage
from manent.core.metrics import Scored
from manent.core.metrics import Task as Kind
from manent.core.observers import ObserverName, Sight
from manent.core.parties import NetworkSum
from manent.core.randomness import repeatable
from manent.core.sums import Number, Partial, Total
from manent.core.training import LocalSGD, LocalTraining, Trained
from manent.core.training.dpsgd import PrivateDraws
from manent.core.vectors import Array, Arrays, Layout, Vector

Dropout = Literal["before_training", "before_upload", "after_upload"]
"""When a simulated client vanishes. A vector that was uploaded counts."""

__all__ = [
    "Accumulator",
    "Algorithm",
    "AlgorithmTraits",
    "Assignment",
    "ClientContext",
    "Contribution",
    "Dropout",
    "Form",
    "Gathering",
    "Hiding",
    "Layer",
    "LayerTraits",
    "Model",
    "ModelTraits",
    "Occasion",
    "PopulationTraits",
    "PrivacyBudget",
    "Released",
    "Report",
    "Stage",
    "SumSpec",
    "Summation",
    "SummationTraits",
    "check_private",
    "traits",
]

Traits = TypeVar("Traits", bound="AlgorithmTraits | LayerTraits | ModelTraits | PopulationTraits | SummationTraits")


@dataclass(frozen=True)
class SumSpec:
    """One kind of sum that a study forms.

    Attributes:
        name: "train", "evaluate", ...; unique in the algorithm.
        layout: how a client's vector [d] is cut into blocks.
        purpose: for people, what is summed.
        every: the sum is formed once in so many rounds.
        scalable: whether a client's vector keeps its meaning when it is scaled down as a whole, as an update does and a count
            does not. Only such a sum can be clipped.
        divisor: the block whose total the server divides by (the sum of the clients' weights), or None.
    """

    name: str
    layout: Layout
    purpose: str
    every: int = 1
    scalable: bool = False
    divisor: str | None = None


@dataclass(frozen=True)
class Assignment:
    """What clients need for one sum.

    Attributes:
        sum: its name, as in `SumSpec`.
        arrays: the vectors that they are sent, float32 by name.
    """

    sum: str
    arrays: Mapping[str, Vector] = field(default_factory=dict)


@dataclass(frozen=True)
class ClientContext:
    """One client's part in one sum.

    Attributes:
        client: its name.
        round: counted from 1.
        seed: of the study's repeatable randomness.
        work: the share of the declared local work that it does, in (0, 1].
        draws: draws the batches and the noise of private training; None where training is not private.
    """

    client: str
    round: int
    seed: int
    work: float = 1.0
    draws: PrivateDraws | None = None

    def rng(self, purpose: str) -> np.random.Generator:
        """Repeatable randomness for one purpose of this client in this round."""
        return repeatable(self.seed, purpose, self.round, self.client)


@dataclass(frozen=True)
class Contribution:
    """A client's answer.

    Attributes:
        vector: float32[d] (float64 where counts need it), its term of the sum.
        memory: float32[m] to keep if the term is in the released sum, or None.
        probe: numbers that never leave a real client. A simulation may look at them.
    """

    vector: Array
    memory: Vector | None = None
    probe: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Released:
    """What the server learns of one sum.

    Attributes:
        total: float64[d].
        answers: how many clients are in the sum; under differential privacy, how many were expected.
        round: counted from 1.
        divisor: what a mean divides by where that has to be public, as under differential privacy; otherwise None.
    """

    total: Total
    answers: int
    round: int
    divisor: float | None = None


Report = Mapping[str, float]
"""Numbers of one released sum for the history, by name.

A row of the history has these names already, so a report with one of them is refused: "round", "sum", "cohort", "answers",
"bytes_up", "bytes_down", "seconds" and "abandoned".
"""


class Algorithm(Protocol):
    """What is computed. State, memory and vectors are passed in and out; nothing is kept on the object.

    What else it may declare is in `AlgorithmTraits`.
    """

    def sums(self, public: Public) -> tuple[SumSpec, ...]:
        """Every kind of sum, with its layout; asked before anything runs. Raises Refused where training cannot be private."""
        ...

    def memory(self, public: Public) -> Layout | None:
        """What a client keeps between rounds (float32, starting at zero), or None."""
        ...

    def check(self, client: Client) -> None:
        """Raises InvalidInput for a client whose data do not fit, naming the client and what is wrong."""
        ...

    def init(self, public: Public, rng: np.random.Generator) -> Arrays:
        """The server's first state: arrays by name."""
        ...

    def assign(self, state: Arrays, round: int, index: int) -> Assignment | None:
        """The round's sum number `index` (from 0), or None where the round needs no further sum."""
        ...

    def answer(
        self,
        assignment: Assignment,
        clients: Sequence[Client],
        memory: Sequence[Vector | None],
        contexts: Sequence[ClientContext],
    ) -> Sequence[Contribution]:
        """The clients' halves: one contribution for each client, in order.

        Args:
            memory: float32[m] of each client, or None where the algorithm keeps nothing.
            contexts: one for each client.
        """
        ...

    def apply(self, state: Arrays, assignment: Assignment, released: Released) -> tuple[Arrays, Report]:
        """The server's next state, and numbers for the history, which are made of the released sum alone."""
        ...

    def result(self, state: Arrays) -> Arrays:
        """What the study was for: the model, or the answer to a query."""
        ...


class Accumulator(Protocol):
    """A sum that is being formed over positions 0 to count - 1 of a cohort; `core.sums.TreeSum` is one.

    Each position is added, skipped or part of a merged run, once. A second time raises ProtocolAbort; a position outside the
    cohort, or a vector of another length, raises InvalidInput.
    """

    def add(self, position: int, vector: Array) -> None:
        """Add the [d] vector of one position. It is only read."""
        ...

    def skip(self, position: int) -> None:
        """Record that a position contributes nothing."""
        ...

    def merge(self, part: Partial) -> None:
        """Take the sum over an aligned run of positions. Its array is only read."""
        ...

    def finish(self) -> Total:
        """The [d] total, once. Raises ProtocolAbort where a position is unaccounted for, or no sum can be formed."""
        ...


@dataclass(frozen=True)
class Occasion:
    """One forming of a sum in a simulation.

    Attributes:
        study: hash of the study, 32 bytes.
        sum: name of the sum.
        round: counted from 1.
        model: digest of what the clients are sent, 32 bytes.
        form: of the vectors that are summed.
        count: how many clients are asked; they stand at positions 0 to count - 1.
        minimum: the fewest answers with which the sum is released.
        vanish: by position, when a simulated client drops out; None where it does not.
    """

    study: bytes
    sum: str
    round: int
    model: bytes
    form: Form
    count: int
    minimum: int
    vanish: tuple[Dropout | None, ...]

    @property
    def dtype(self) -> Number:
        """The type of the numbers that are summed."""
        return np.float64 if self.form.grid is None else np.int64


class Summation(Protocol):
    """How terms are brought together: plain data. Where it hides the terms, it adds whole numbers only.

    What else it may declare, such as its parties over a network, is in `SummationTraits`.
    """

    @property
    def together(self) -> bool:
        """Whether a simulation may add several clients' vectors before they come to the sum that `init` makes."""
        ...

    def seen_by(self, observer: ObserverName) -> Sight:
        """What an observer sees of the clients' vectors, and whether it learns who takes part."""
        ...

    def minimum(self, most: int) -> int:
        """The fewest answers with which it forms a sum, where at most `most` clients are asked.

        Raises Refused for too small a cohort.
        """
        ...

    def init(self, occasion: Occasion) -> Accumulator:
        """An empty sum. Raises Refused for vectors that it cannot hold."""
        ...

    def bits(self, form: Form, most: int) -> int:
        """How many bits one number of a client's vector takes on its way, where at most `most` clients are asked.

        Raises Refused for vectors that it cannot hold.
        """
        ...

    def explain(self, form: Form, most: int, minimum: int) -> tuple[str, ...]:
        """Lines for the statement: what its protection rests on. Raises Refused for vectors that it cannot hold."""
        ...


@dataclass(frozen=True)
class Hiding:
    """What the masks on clients' vectors withstand.

    Attributes:
        adversary: "active", a server that lies; "curious", one that follows the protocol and looks.
        corrupt, dropped: the shares of the cohort that may collude with the server, and that may vanish.
        post_quantum: whether recorded traffic stays secret from a quantum computer.
        modelled: no mask is made at all: the same sum is formed without the cryptography, which only a simulation may do.
    """

    adversary: Literal["curious", "active"]
    corrupt: float
    dropped: float
    post_quantum: bool
    modelled: bool = False


class PrivacyBudget(Protocol):
    """How much privacy loss is allowed, and for what; `manent.accounting.Budget` is one."""

    @property
    def epsilon(self) -> float:
        """The largest epsilon."""
        ...

    @property
    def delta(self) -> float:
        """The delta at which epsilon is meant."""
        ...

    @property
    def privacy_unit(self) -> Literal["client", "example"]:
        """Whose data are protected."""
        ...

    @property
    def neighboring_relation(self) -> Literal["add_or_remove", "replace_one", "zero_out"]:
        """The change of the data that is protected."""
        ...

    @property
    def against(self) -> tuple[ObserverName, ...] | None:
        """Whom it holds against; None for the clients, the public, and whoever else the noise is to protect from."""
        ...

    def check_population(self, units: int) -> None:
        """Raises InvalidInput where delta is too large for so many units."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """JSON values only; part of the study's hash."""
        ...


class Model(Protocol):
    """A parametrised function as a flat float32[d] vector.

    Block "parameters" [p] comes first, then "statistics" where the model has any. What else it may declare is in `ModelTraits`.
    """

    @property
    def layout(self) -> Layout:
        """How the vector is cut into blocks."""
        ...

    @property
    def kind(self) -> Kind:
        """What it predicts: "binary", "multiclass" or "regression"."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes (2 for binary, 0 for regression)."""
        ...

    def init(self, rng: np.random.Generator) -> Vector:
        """First weights, float32[d]."""
        ...

    def train(self, works: Sequence[LocalTraining], data: Sequence[Examples]) -> Sequence[Trained]:
        """Carry out each client's local training; one result for each, in order."""
        ...

    def gradient(self, vector: Vector, data: Examples) -> Vector:
        """float32[p], the gradient of the mean loss over all rows."""
        ...

    def evaluate(self, vector: Vector, data: Examples) -> Scored:
        """Scores and mean loss in evaluation mode."""
        ...

    def check(self, data: Examples, where: str) -> None:
        """Raises InvalidInput, saying where, for data whose shape, type or labels do not fit."""
        ...

    def to_plain(self) -> dict[str, Any]:
        """JSON values only; part of the study's hash."""
        ...


@dataclass(frozen=True)
class AlgorithmTraits:
    """Optional members of an algorithm, and their defaults; read by `traits`.

    Attributes:
        model: what it trains, or None for a query.
        local: what each client does with its rows in a round, or None where that is no training.
        together: how many clients it takes in one call of `answer`.
        parted: whether it takes the total part by part, where no layer stands between the sum and it.
        column: the column of the data that a query asks about, or None.
        bins: into how many bins it counts, or None for what counts nothing.
    """

    model: Model | None = None
    local: LocalSGD | None = None
    together: int = 1
    parted: bool = False
    column: str | None = None
    bins: int | None = None


@dataclass(frozen=True)
class ModelTraits:
    """Optional members of a model, and their defaults; read by `traits`.

    Attributes:
        threadsafe: whether several threads may call it at the same time. A simulation then forks no process.
        together: how many clients it trains in one call of `train`.
        check_private: raises Refused where the model cannot give the gradient of a single example (BatchNorm mixes examples).
            None where it never can. A model that can also has `clipped_gradient_sum(vector, data, clip_norm)`; see
            `core.training.dpsgd.ClippedSum`. What shows only in computing, that refuses.
    """

    threadsafe: bool = False
    together: int = 1
    check_private: Callable[[], None] | None = None


@dataclass(frozen=True)
class PopulationTraits:
    """Optional members of a `Population`, and their defaults; read by `traits`.

    Attributes:
        clients: those whose data are here, as in a simulation; empty where data stay with sites.
    """

    clients: Sequence[Client] = ()


@dataclass(frozen=True)
class SummationTraits:
    """Optional members of a summation, and their defaults; read by `traits`.

    Attributes:
        output: "sum", or "location" where what is formed stands for the vectors without being their sum, as a median does.
        network: how it runs between a server and clients, or None where it runs in simulations only.
        hiding: what the masks on clients' vectors withstand, or None where there are none.
    """

    output: Literal["sum", "location"] = "sum"
    network: NetworkSum[Any, Any] | None = None
    hiding: Hiding | None = None


def traits(part: object, kind: type[Traits]) -> Traits:
    """The optional members of a part, with the default for each that it does not have."""
    # A member that the class has is read whatever that raises: a property that fails must not pass for one that is not there.
    names = [field.name for field in fields(kind)]
    declared = [name for name in names if getattr_static(part, name, None) is not None or hasattr(part, name)]
    return kind(**{name: getattr(part, name) for name in declared})


def check_private(model: Model) -> None:
    """Raises Refused where a model does not give the gradients of single examples, as its own `check_private` says."""
    check = traits(model, ModelTraits).check_private
    if check is None:
        raise Refused(
            f"{type(model).__name__} does not give the gradients of single examples, which DPSGD clips. "
            f"Use a TorchModel, a JaxModel, a SklearnModel or a model of manent.models.numpy."
        )
    check()
