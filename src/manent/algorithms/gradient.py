"""What every gradient algorithm shares: one round of local training, whose results are summed and applied.

An algorithm chooses three things: the arguments of the local kernel (`kernel`), what a client sends (`terms`), and what the
server does with the mean (`step`). Evaluation on the clients' own test parts is a second sum of the round.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Client, Public
from manent.core.metrics import check_metrics, default_metrics, finish, metric_blocks, statistics
from manent.core.protocols import (
    Assignment,
    ClientContext,
    Contribution,
    Model,
    ModelTraits,
    Released,
    Report,
    SumSpec,
    check_private,
    traits,
)
from manent.core.training import LocalSGD, LocalTraining, Trained
from manent.core.vectors import Array, Arrays, Block, Entry, Layout, Vector, scalar

Weighting = Literal["examples", "equal"]


@dataclass(frozen=True)
class Evaluation:
    """A sum of metrics over the clients' own test parts, every so many rounds.

    Attributes:
        every: evaluated in each round whose number it divides; at least 1.
        metrics: names from `core.metrics.METRICS`. None takes accuracy and loss, or RMSE and loss for regression.

    Raises InvalidInput unless every is a whole number of at least 1, and for metrics that are not a tuple or list of names.
    """

    every: int = 1
    metrics: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        validate.count("Evaluation", "every", self.every)
        if self.metrics is not None:
            validate.names("Evaluation", "metrics", self.metrics, "('accuracy', 'loss')")

    def names(self, model: Model) -> tuple[str, ...]:
        """The metrics' names. Raises InvalidInput for an unknown one, or one that does not fit the model."""
        names = self.metrics or default_metrics(model.kind)
        check_metrics(names, model.kind)
        return tuple(names)


@dataclass(frozen=True)
class Correction:
    """What an algorithm adds to each local gradient: prox * (w - start) + shift.

    Attributes:
        prox: strength of the pull towards the start.
        shift: float32[p], or None for no shift.
    """

    prox: float = 0.0
    shift: Vector | None = None


@dataclass(frozen=True)
class Terms:
    """What a client sends, by name of the block, and what it keeps.

    Attributes:
        weighted: blocks that are multiplied by the client's weight before they are summed.
        unweighted: blocks that are summed as they are.
        memory: float32[m], kept if the client's vector is in the released sum; or None.
    """

    weighted: Mapping[str, Array]
    unweighted: Mapping[str, Array] = field(default_factory=dict)
    memory: Vector | None = None


@dataclass(frozen=True)
class Totals:
    """A released training sum, read by block.

    Attributes:
        layout: how the total is cut into blocks.
        total: float64[d].
        weight: the sum of the clients' weights, or the public divisor.
        answers: how many clients are in the sum, or under differential privacy how many were expected.
        round: counted from 1.
    """

    layout: Layout
    total: Array
    weight: float
    answers: float
    round: int

    def sum(self, block: str) -> Array:
        """float64[size of the block], its sum. Raises InvalidInput for an unknown block, as `part` and `mean` do."""
        return self.total[self.layout.slice(block)]

    def part(self, block: str, where: slice) -> Array:
        """float64, the sum of some coordinates of a block."""
        first = self.layout.slice(block).start
        return self.total[first + where.start : first + where.stop]

    def mean(self, block: str) -> Array:
        """float64[size of the block], its weighted mean."""
        mean: Array = self.sum(block) / self.weight
        return mean


@dataclass(frozen=True)
class GradientAlgorithm(ABC):
    """Federated training of one model.

    Attributes:
        model: what is trained.
        local: what each client does in a round.
        weighting: a client's weight. "examples" is its number of training rows (McMahan et al. 2017), "equal" is 1. In private
            training the number of rows must not leave a client, so all weigh 1; there a client with more rows has a larger update
            anyway.
        evaluation: metrics that are summed over the clients' test parts, or None.

    Raises InvalidInput for another weighting, and for a model, a local training or an evaluation of a wrong kind.
    """

    model: Model
    local: LocalSGD
    weighting: Weighting = "examples"
    evaluation: Evaluation | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        validate.part(owner, "model", self.model, "a model", ("train", "evaluate"), "LogisticModel(features=13)")
        validate.part(owner, "local", self.local, "the clients' training", ("batches",), "LocalSGD(lr=0.1, epochs=1)")
        validate.one_of(owner, "weighting", self.weighting, get_args(Weighting))
        if self.evaluation is not None:
            validate.part(owner, "evaluation", self.evaluation, "an evaluation or None", ("names",), "Evaluation(every=5)")

    # What an algorithm chooses.

    @abstractmethod
    def step(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Array, dict[str, Array]]:
        """The new parameters [p], and those of the arrays declared by `slots` that change, with the shapes that they have there.

        Args:
            parameters: float32[p], the parameters before the round.
            state: the server's state.
            totals: what the clients sent, summed.
        """

    def slots(self, size: int) -> dict[str, Array]:
        """The server's arrays beside the model, as they start. `size` is p."""
        return {}

    def sends(self) -> tuple[str, ...]:
        """The names of the state's arrays that each client is sent beside the model."""
        return ()

    def extra_blocks(self) -> tuple[Block, ...]:
        """The blocks of a client's vector beside the update, the statistics and the weight."""
        return ()

    def kernel(self, assignment: Assignment, memory: Vector | None) -> Correction:
        """What is added to each local gradient."""
        return Correction()

    def terms(self, update: Vector, work: LocalTraining, assignment: Assignment, memory: Vector | None, client: Client) -> Terms:
        """What a client sends after training, and what it keeps.

        Args:
            update: float32[p], new minus old parameters.
            work: the training that was carried out.
            assignment: what the client was sent.
            memory: what the client kept, or None.
            client: the client.
        """
        return Terms({"update": update})

    def memory(self, public: Public) -> Layout | None:
        """What a client keeps between rounds, or None."""
        return None

    # What is the same for all.

    @cached_property
    def parameters(self) -> int:
        """p, the number of trained coordinates."""
        return int(self.model.layout.slice("parameters").stop)

    @cached_property
    def train_layout(self) -> Layout:
        """How a client's vector is cut: update, statistics where the model has any, extra blocks, and any weight."""
        blocks = [self.parameter_block("update")]
        if "statistics" in self.model.layout:
            blocks.append(self._block("statistics", "statistics"))
        blocks += self.extra_blocks()
        if self.weighted:
            blocks.append(scalar("weight"))
        return Layout(tuple(blocks))

    @property
    def weighted(self) -> bool:
        """Whether a client's number of training rows is sent along, as its weight."""
        return self.weighting == "examples" and self.local.privacy is None

    def parameter_block(self, name: str) -> Block:
        """A block shaped like the parameters, such as a control variate."""
        return self._block("parameters", name)

    def _block(self, source: str, name: str) -> Block:
        entries = next(block for block in self.model.layout.blocks if block.name == source).entries
        return Block(name, tuple(Entry(f"{name}.{entry.name}", entry.shape) for entry in entries))

    @property
    def together(self) -> int:
        """How many clients the model trains in one call."""
        return traits(self.model, ModelTraits).together

    @property
    def scalable(self) -> bool:
        """Whether a client's vector keeps its meaning when clipping scales it down as a whole."""
        return True

    def sums(self, public: Public) -> tuple[SumSpec, ...]:
        """ "train", and "evaluate" where evaluation is declared. Raises Refused for a model that cannot be trained privately."""
        if self.local.privacy is not None:
            check_private(self.model)
        divisor = "weight" if "weight" in self.train_layout else None
        train = SumSpec("train", self.train_layout, "model updates (new - old)", scalable=self.scalable, divisor=divisor)
        if self.evaluation is None:
            return (train,)
        layout = Layout(metric_blocks(self.evaluation.names(self.model), self.model.classes))
        return train, SumSpec("evaluate", layout, "metrics on the clients' own test parts", self.evaluation.every)

    def check(self, client: Client) -> None:
        """Raises InvalidInput for a client without training rows, or with rows that do not fit the model."""
        if not len(client.train):
            raise InvalidInput(f"Client {client.name!r} has no training rows; leave it out, or give it data.")
        self.model.check(client.train, f"client {client.name!r}, training part")
        if client.test is not None and len(client.test):
            self.model.check(client.test, f"client {client.name!r}, test part")

    def init(self, public: Public, rng: np.random.Generator) -> Arrays:
        """ "model" float32[d], "clients" (how many there are), and the slots."""
        return {"model": self.model.init(rng), "clients": np.array(public.clients), **self.slots(self.parameters)}

    def assign(self, state: Arrays, round: int, index: int) -> Assignment | None:
        """First training, then evaluation in the rounds that have one."""
        if index == 0:
            names = ("model", *self.sends())
            return Assignment("train", {name: np.asarray(state[name], np.float32) for name in names})
        if index == 1 and self.evaluation is not None and round % self.evaluation.every == 0:
            return Assignment("evaluate", {"model": np.asarray(state["model"], np.float32)})
        return None

    def answer(
        self,
        assignment: Assignment,
        clients: Sequence[Client],
        memory: Sequence[Vector | None],
        contexts: Sequence[ClientContext],
    ) -> Sequence[Contribution]:
        """Trains, or evaluates, each client. The probe of a training has its "loss" and its "steps"."""
        if assignment.sum == "evaluate":
            return [Contribution(self._measure(assignment, client)) for client in clients]
        works = [self._work(assignment, *each) for each in zip(clients, memory, contexts, strict=True)]
        trained = self.model.train(works, [client.train for client in clients])
        each = zip(works, trained, clients, memory, strict=True)
        return [self._contribution(assignment, *one) for one in each]

    def _work(self, assignment: Assignment, client: Client, memory: Vector | None, context: ClientContext) -> LocalTraining:
        rng = context.rng("training")
        correction = self.kernel(assignment, memory)
        return LocalTraining(
            start=assignment.arrays["model"],
            batches=self.local.batches(len(client.train), rng, context.work, context.draws),
            local=self.local,
            lr=self.local.lr * self.local.schedule.factor(context.round),
            prox=correction.prox,
            shift=correction.shift,
            seed=int(rng.integers(2**63)),
            draws=context.draws,
        )

    @np.errstate(over="ignore", invalid="ignore")  # whoever takes the vector looks for what is not finite
    def _contribution(
        self, assignment: Assignment, work: LocalTraining, trained: Trained, client: Client, memory: Vector | None
    ) -> Contribution:
        p, layout = self.parameters, self.train_layout
        vector = np.empty(layout.size, np.float32)
        update = trained.update[:p]
        terms = self.terms(update, work, assignment, memory, client)
        weight = np.float32(len(client.train) if self.weighted else 1)
        for name, values in terms.unweighted.items():
            vector[layout.slice(name)] = values
        weighted = dict(terms.weighted)
        if "statistics" in layout:
            weighted["statistics"] = trained.update[p:]
        for name, values in weighted.items():
            np.multiply(values, weight, out=vector[layout.slice(name)])
        if "weight" in layout:
            vector[layout.slice("weight")] = weight
        return Contribution(vector, terms.memory, {"loss": trained.loss, "steps": float(len(work.batches))})

    def _measure(self, assignment: Assignment, client: Client) -> Array:
        names, classes = self._evaluation.names(self.model), self.model.classes
        if client.test is None or not len(client.test):
            return np.zeros(Layout(metric_blocks(names, classes)).size)
        return statistics(names, self.model.evaluate(assignment.arrays["model"], client.test), classes)

    @property
    def _evaluation(self) -> Evaluation:
        if self.evaluation is None:
            raise InvalidInput("This study declares no evaluation; give the algorithm evaluation=Evaluation().")
        return self.evaluation

    def apply(self, state: Arrays, assignment: Assignment, released: Released) -> tuple[Arrays, Report]:
        """After training: the next model, and "update_norm", the L2 norm of the mean update. After evaluation: the metrics.

        Raises InvalidInput for a `step` that does not return what it should.
        """
        if assignment.sum == "evaluate":
            return state, finish(self._evaluation.names(self.model), released.total, self.model.classes)
        layout = self.train_layout
        answers = float(released.answers) if released.divisor is None else released.divisor
        weight = float(released.total[layout.slice("weight")][0]) if "weight" in layout else answers
        if weight <= 0:
            return state, {"update_norm": 0.0}
        totals = Totals(layout, released.total, weight, answers, released.round)
        before = np.asarray(state["model"], np.float32)
        model, changed = self._stepped(before[: self.parameters], state, totals)
        if "statistics" in layout:
            model = np.concatenate([model, before[self.parameters :] + totals.mean("statistics").astype(np.float32)])
        return {**state, **changed, "model": model}, {"update_norm": _norm(totals)}

    def _stepped(self, parameters: Vector, state: Arrays, totals: Totals) -> tuple[Vector, Mapping[str, Array]]:
        """What `step` returns, checked: float32[p], and the arrays that change. A misspelt one would never be read again."""
        owner, returned = f"{type(self).__name__}.step", self.step(parameters, state, totals)
        if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], Mapping)):
            raise InvalidInput(
                f"{owner} must return a pair (parameters, state), the latter as arrays by name; "
                f"found {validate.typed(returned)}. Return {{}} as the state where nothing changes."
            )
        try:
            model = np.asarray(returned[0], np.float32)
        except (TypeError, ValueError):
            raise InvalidInput(f"{owner} must return parameters as numbers; found {validate.shown(returned[0])}.") from None
        if model.shape != parameters.shape:
            raise InvalidInput(
                f"{owner} must return parameters of the shape {parameters.shape}, that of the model; found {model.shape}."
            )
        slots = {name: array for name, array in state.items() if name not in ("model", "clients")}
        for name, array in returned[1].items():
            if name not in slots:
                declared = ", ".join(map(repr, slots)) or "no array"
                raise InvalidInput(f"{owner} returns the state {name!r}, but `slots` declares {declared}. Declare it there.")
            if np.shape(array) != np.shape(slots[name]):
                raise InvalidInput(
                    f"{owner} returns the state {name!r} with the shape {np.shape(array)}, but `slots` declares "
                    f"{np.shape(slots[name])}. A state keeps its shape."
                )
        return model, returned[1]

    def result(self, state: Arrays) -> Arrays:
        """ "model", float32[d]."""
        return {"model": state["model"]}


def blocks(size: int, block: int = 1 << 20) -> Iterator[slice]:
    """The coordinates of a vector of this size, cut into slices of at most `block`, in order."""
    return (slice(start, min(start + block, size)) for start in range(0, size, block))


def _norm(totals: Totals) -> float:
    """The Euclidean norm of the mean update."""
    size = len(range(*totals.layout.slice("update").indices(totals.layout.size)))
    squares = (np.square(totals.part("update", part) / totals.weight).sum() for part in blocks(size))
    return math.sqrt(math.fsum(squares))


def need_plain_sgd(algorithm: GradientAlgorithm, reason: str) -> None:
    """Raises InvalidInput, with the reason, where the clients' steps are not plain SGD."""
    if not algorithm.local.plain_sgd:
        raise InvalidInput(
            f"{type(algorithm).__name__} needs plain SGD on the clients ({reason}); found "
            f"optimizer={algorithm.local.optimizer!r}, momentum={algorithm.local.momentum}. Set momentum=0, optimizer='sgd'."
        )


def full_gradient(algorithm: GradientAlgorithm, model: Vector, client: Client) -> Vector:
    """float32[p], the gradient of a client's mean loss plus weight decay, at `model` [d]. Raises Refused in private training."""
    if algorithm.local.privacy is not None:
        raise Refused(f"{type(algorithm).__name__} would use a gradient without noise, so the training would not be private.")
    gradient = algorithm.model.gradient(model, client.train)
    if algorithm.local.weight_decay:
        gradient = gradient + np.float32(algorithm.local.weight_decay) * model[: algorithm.parameters]
    return gradient
