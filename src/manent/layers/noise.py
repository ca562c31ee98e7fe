"""Noise on whole numbers: drawn exactly, by the server or by the clients."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from manent.accounting.events import DiscreteLaplace, DistributedDiscreteGaussian, Event, RoundedGaussian, Skellam
from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import Cost, Draws, Form, Gathering, Place, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays
from manent.crypto.samplers.noise import (
    STATISTICAL_DISTANCE,
    discrete_gaussian,
    discrete_laplace,
    rounded_gaussian,
    skellam,
    undrawable,
)
from manent.layers.order import refuse_order

Mechanism = Literal["gaussian", "laplace"]
Shared = Literal["discrete_gaussian", "skellam"]
MINIMUM_LOCAL_STDDEV = 2.0
"""In steps of the grid: from here on, a sum of discrete Gaussians is as good as one (Kairouz, Liu, Steinke 2021, Theorem 1)."""
_PIECE = 1 << 15
_REACH = 16.0  # no sampler gives more than so many deviations; for Laplace and Skellam ten times as many are taken


@dataclass(frozen=True)
class _One:
    """Noise of one law, of a scale relative to the norm bound of one client.

    Attributes:
        noise_multiplier: deviation (for Laplace: scale) over the norm bound of one client, > 0. None takes it from the budget.
        mechanism: "gaussian", rounded; or "laplace", discrete, for pure epsilon, which needs Clip(order=1).

    Raises:
        InvalidInput: for a value out of range.
    """

    noise_multiplier: float | None = None
    mechanism: Mechanism = "gaussian"
    place: ClassVar[Place] = "noise"

    def __post_init__(self) -> None:
        check_multiplier(type(self).__name__, self.noise_multiplier)
        validate.one_of(type(self).__name__, "mechanism", self.mechanism, ("gaussian", "laplace"))

    @abstractmethod
    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, sized for the norm bound of the form.

        Raises:
            Refused: for a wrong order, or a form without the bound that the noise needs.
            InvalidInput: where neither the layer nor a budget says how much noise.
        """

    def _law(self, form: Form, gathering: Gathering) -> tuple[float, Event]:
        """Deviation or scale in steps of the grid, and the event of one release."""
        name = type(self).__name__
        refuse_order(name, form, whole=True)
        z = multiplier(name, self.noise_multiplier, gathering)
        if self.mechanism == "laplace":
            if form.l1 is None:
                raise Refused(f"Laplace noise needs a bound on the sum of sizes. Use Clip(norm, order=1) before {name}.")
            sensitivity = math.floor(form.l1)
            return z * sensitivity, DiscreteLaplace(z * sensitivity, sensitivity)
        return z * bound(form, name), RoundedGaussian(z, form.layout.size * STATISTICAL_DISTANCE)


@final
@dataclass(frozen=True)
class CentralNoise(_One):
    """The server adds noise to the total, once, in the step that releases it.

    The server is trusted to add the noise, and sees what it adds the noise to.

    | observer or case | what holds |
    |---|---|
    | the public | the noise protects; a secret sample amplifies, but one of fixed size does not for "laplace" |
    | another client, colluders | the same; a sample amplifies where they do not learn the cohort, as the summation says |
    | the server | no differential privacy |
    | "add_or_remove" | Refused for a cohort of fixed size, and for one that is cut where an observer may know it |
    | Poisson cohort | an empty one is released too, as noise alone; a minimum above 1 is Refused |
    | no clip, or Clip(order=2) with "laplace" | Refused |
    | the sampler of "gaussian" is not quite its law | at most d STATISTICAL_DISTANCE off, which joins delta |

    Attributes:
        noise_multiplier: deviation (for Laplace: scale) over the norm bound of one client, > 0. None takes it from the budget.
        mechanism: "gaussian", rounded; or "laplace", discrete, for pure epsilon, which needs Clip(order=1).

    Raises:
        InvalidInput: for a value out of range.
    """

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """See `_One.enter`: Refused for a wrong order or a missing bound, InvalidInput where nothing says how much noise."""
        scale, event = self._law(form, gathering)
        cost = Cost(event, None, event, "server", scale * (form.grid or 1.0))
        given = replace(form, noise=type(self).__name__, fault=form.fault or undrawable(self.mechanism, scale))
        return CentralStage(given, scale, self.mechanism, cost=cost)

    def draws(self, most: int) -> Draws:
        """One draw: the server's."""
        return Draws(self.mechanism, 1, 1.0)


@final
@dataclass(frozen=True)
class LocalNoise(_One):
    """Each client adds all the noise that protects it to its own vector. It need not trust the server.

    **The noise tells the number.** A total of n vectors has n times the variance of one, and with many coordinates it shows its
    variance to anybody. So whoever sees it knows how many clients are in it, even where all vectors are zero. Hence one client
    more or less is never hidden: "add_or_remove" is Refused. And Poisson sampling amplifies nothing, under the other relations
    neither. Take a population of one client: a total that is not exactly zero tells that it was drawn, and then all the noise
    that protects it is that of its one vector. In a cohort of fixed size the number is the same whoever was drawn. The total
    then has one vector's noise, and further noise that depends on nobody, and a secret sample amplifies.

    | observer or case | what holds |
    |---|---|
    | the server | each vector carries its own noise; sampling does not amplify, as the server knows who was asked |
    | another client, colluders, the public | accounted as if a total had the noise of one vector: that of whoever is protected |
    | a sample of fixed size | amplifies for "gaussian", against those who do not know the cohort |
    | "add_or_remove" | Refused: use "zero_out" or "replace_one" |
    | noise in a total of n | sqrt(n) times that of one vector; the stated deviation is that of one |
    | Poisson cohort | accounted without sampling; an empty one is released too; a minimum above 1 is Refused |
    | no clip, or Clip(order=2) with "laplace" | Refused |

    Attributes:
        noise_multiplier: deviation (for Laplace: scale) over the norm bound of one client, > 0. None takes it from the budget.
        mechanism: "gaussian", rounded; or "laplace", discrete, for pure epsilon, which needs Clip(order=1).

    Raises:
        InvalidInput: for a value out of range.
    """

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """See `_One.enter`: Refused for a wrong order or a missing bound, InvalidInput where nothing says how much noise."""
        scale, event = self._law(form, gathering)
        fault = form.fault or undrawable(self.mechanism, scale)
        given = replace(form, noise=type(self).__name__, spread=reach(scale, self.mechanism), fault=fault)
        cost = Cost(event, event, event, "each client", scale * (form.grid or 1.0))
        return LocalStage(given, scale, self.mechanism, cost=cost)

    def draws(self, most: int) -> Draws:
        """One whole draw of each client."""
        return Draws(self.mechanism, most, 1.0)


@final
@dataclass(frozen=True)
class DistributedNoise:
    """Each client adds a share of the noise. The shares of those that are certain to answer make up all of it.

    Of n clients that are asked, h = ceil((1 - dropout - colluders) n) are honest and answer. Each adds noise of variance
    sigma^2 / h. With fewer than h + floor(colluders n) answers nothing is released, so no noise is lost. An observer takes off
    what it knows: colluders hold none of the h shares, but another honest client holds one, and against it h - 1 shares count.

    "discrete_gaussian": Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with
    Secure Aggregation". "skellam": Agarwal, Kairouz, Liu 2021, "The Skellam Mechanism for Differentially Private Federated
    Learning".

    | observer or case | what holds |
    |---|---|
    | the server, alone or with the colluders, with a summation that hides terms | h shares; sampling does not amplify |
    | the server, with Plain | no differential privacy: each vector carries one share only |
    | another client | h - 1 shares, as it knows its own; with h = 1 the study is Refused |
    | the colluders without the server, the public | h shares; sampling does not amplify |
    | "add_or_remove" | Refused: the shares tell how many clients there are. Use "zero_out" or "replace_one" |
    | too few answers | nothing is released |
    | Poisson cohort | Refused: nobody is certain to answer |
    | a share below 2 steps of the grid | Refused: a sum of discrete Gaussians would not be as good as one |
    | no clip | Refused |

    Attributes:
        mechanism: the law of one client's share.
        noise_multiplier: sigma over the norm bound of one client, > 0. None takes it from the budget.
        dropout: the largest share of those asked that may not answer, in [0, 1). None takes what the summation declares
            (`SecAgg(dropped=...)`), or 0.
        colluders: the largest share of those asked that may leave their noise out, or tell it to the observer, in [0, 1). None
            takes what the summation declares (`SecAgg(corrupt=...)`), or 0; less than that is Refused. Both shares add up to less
            than 1.

    Raises:
        InvalidInput: for a value out of range.
    """

    mechanism: Shared = "discrete_gaussian"
    noise_multiplier: float | None = None
    dropout: float | None = None
    colluders: float | None = None
    place: ClassVar[Place] = "noise"

    def __post_init__(self) -> None:
        check_multiplier("DistributedNoise", self.noise_multiplier)
        validate.one_of("DistributedNoise", "mechanism", self.mechanism, ("discrete_gaussian", "skellam"))
        for name, share in (("dropout", self.dropout), ("colluders", self.colluders)):
            if share is not None:
                validate.fraction("DistributedNoise", name, share, ", or None (what the summation declares)", one=False)
        if not (self.dropout or 0.0) + (self.colluders or 0.0) < 1:
            raise InvalidInput(
                f"DistributedNoise expects shares dropout and colluders that add up to less than 1; "
                f"found {self.dropout!r} and {self.colluders!r}. Lower one of them."
            )

    def beside(self, corrupt: float, dropped: float) -> DistributedNoise:
        """The layer beside a summation that lets these shares of those asked collude, and vanish: it takes what it leaves open.

        Raises:
            Refused: where the noise is sized for fewer colluders than the summation withstands.
            InvalidInput: where the shares add up to 1 or more.
        """
        if self.colluders is not None and self.colluders < corrupt:
            raise Refused(
                f"The summation lets a share of {corrupt:g} of the clients collude, and DistributedNoise(colluders="
                f"{self.colluders:g}) counts the noise of some of those. Leave colluders out: it then takes {corrupt:g}; or "
                f"lower the summation's share."
            )
        dropout = dropped if self.dropout is None else self.dropout
        return replace(self, dropout=dropout, colluders=corrupt if self.colluders is None else self.colluders)

    def honest(self, asked: int) -> int:
        """h: how many of those asked are certain to add their share; at least 1."""
        return max(1, math.ceil((1 - (self.dropout or 0.0) - (self.colluders or 0.0)) * asked - 1e-9))

    def minimum(self, asked: int) -> int:
        """The fewest answers with which anything is released: h of them are honest, whoever colludes."""
        return min(asked, self.honest(asked) + math.floor((self.colluders or 0.0) * asked + 1e-9))

    def check_cohort(self, minimum: int, sampled: bool) -> None:
        """Raises Refused for a Poisson cohort, of which nobody is certain to answer."""
        if sampled:
            raise Refused(
                "Shares of noise are sized for the clients that are certain to answer, and a Poisson cohort may be of any size. "
                "Use Cohort(size=...) or everyone with DistributedNoise."
            )

    def draws(self, most: int) -> Draws:
        """One share of each client: more than are counted on, where all answer."""
        return Draws(self.mechanism, most, 1 / math.sqrt(self.honest(most)))

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, with shares for the largest cohort.

        Raises:
            Refused: for a wrong order, a form without a bound, shares that are too small for the grid, and fewer than two
                shares that are certain.
            InvalidInput: where neither the layer nor a budget says how much noise.
        """
        refuse_order("DistributedNoise", form, whole=True)
        z = multiplier("DistributedNoise", self.noise_multiplier, gathering)
        norm, parties = bound(form, "DistributedNoise"), self.honest(gathering.most)
        if parties < 2:
            raise Refused(
                f"Of {gathering.most} clients that are asked only one is certain to add its share of the noise, and it knows its "
                f"own: nothing protects the others from it. Ask more clients, or lower dropout or colluders; or use LocalNoise."
            )
        local = z * norm / math.sqrt(parties)
        fault = form.fault or undrawable(self.mechanism, local)
        if local < MINIMUM_LOCAL_STDDEV:
            fault = (
                f"One client's share of the noise is {local:.3g} steps of the grid; at least {MINIMUM_LOCAL_STDDEV:g} are "
                f"needed. Use a finer grid (more bits), or more noise."
            )
        l1 = min(norm * math.sqrt(form.layout.size), norm * norm, form.l1 or math.inf)
        given = replace(form, noise="DistributedNoise", spread=reach(local, self.mechanism), fault=fault)
        event, beside = (self._event(local, n, norm, l1, form.layout.size) for n in (parties, parties - 1))
        # One share protects a vector by itself from nobody: it is sized to be one of many.
        cost = Cost(event, None, beside, "shares", z * norm * (form.grid or 1.0), self.colluders or 0.0)
        return SharesStage(given, local, self.mechanism, parties, cost=cost)

    def _event(self, local: float, parties: int, l2: float, l1: float, size: int) -> Event:
        if self.mechanism == "skellam":
            return Skellam(parties * local * local, l2, l1)
        return DistributedDiscreteGaussian(local, parties, l2, l1, size)


@dataclass(frozen=True)
class CentralStage(Stage):
    """See `CentralNoise`.

    Attributes:
        scale: deviation (for Laplace: scale) of the noise, in steps of the grid.
    """

    scale: float
    mechanism: Mechanism

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """int64[d], with fresh noise."""
        return total + draw(self.mechanism, self.scale, total.shape, random), state


@dataclass(frozen=True)
class LocalStage(Stage):
    """See `LocalNoise`.

    Attributes:
        scale: deviation (for Laplace: scale) of the noise, in steps of the grid.
    """

    scale: float
    mechanism: Mechanism

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """int64[k, d], each with noise of its own. The array that is given is changed."""
        return add_noise(vectors, self.mechanism, self.scale, random)


@dataclass(frozen=True)
class SharesStage(Stage):
    """See `DistributedNoise`.

    Attributes:
        local: deviation of one client's share, in steps of the grid.
        parties: h, the number of clients that are certain to add their share.
    """

    local: float
    mechanism: Shared
    parties: int

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """int64[k, d], each with a share of its own. The array that is given is changed."""
        return add_noise(vectors, self.mechanism, self.local, random)


def draw(law: str, scale: float, shape: tuple[int, ...], random: PrivateRandom) -> NDArray[np.int64]:
    """int64[shape]: fresh noise of this law.

    Args:
        law: a mechanism of a layer.
        scale: its deviation, or for Laplace its scale, in steps of the grid.
    """
    if law == "gaussian":
        return rounded_gaussian(scale, shape, random)
    if law == "laplace":
        return discrete_laplace(scale, shape, random)
    return skellam(scale**2, shape, random) if law == "skellam" else discrete_gaussian(scale, shape, random)


def add_noise(vectors: Array, law: str, scale: float, random: PrivateRandom) -> Array:
    """Whole numbers [k, d] with fresh noise. They are changed in place, a piece at a time, which stays in the cache."""
    flat = vectors.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        part = flat[start : start + _PIECE]
        part += draw(law, scale, part.shape, random)
    return flat.reshape(vectors.shape)


def reach(scale: float, law: str) -> float:
    """More than the size of any draw of the samplers, in steps of the grid; see `draw`."""
    return _REACH * scale * (10 if law in ("laplace", "skellam") else 1) + 100


def multiplier(layer: str, own: float | None, gathering: Gathering) -> float:
    """The layer's own noise multiplier, or else the budget's. Raises InvalidInput where there is neither."""
    found = own if own is not None else gathering.noise_multiplier
    if found is None:
        raise InvalidInput(f"{layer} needs noise_multiplier=..., or Study(budget=Budget(...)) to derive it from.")
    return found


def bound(form: Form, layer: str) -> float:
    """The bound on the Euclidean norm of a client's vector, in steps of the grid. Raises Refused where there is none."""
    if form.l2 is None:
        raise Refused(f"Nothing bounds a client's vector before {layer}. Put Clip(norm) or AdaptiveClip() first.")
    return form.l2


def check_multiplier(layer: str, value: float | None) -> None:
    """Raises InvalidInput unless a noise multiplier is None or a finite number above zero."""
    if value is not None:
        validate.sized(layer, "noise_multiplier", value, ", or None to derive it from the budget")
