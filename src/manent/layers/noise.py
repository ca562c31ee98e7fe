"""Noise on whole numbers: drawn exactly, in one place or by many."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import numpy as np
from numpy.typing import NDArray

from manent.accounting.events import DiscreteLaplace, DistributedDiscreteGaussian, Event, RoundedGaussian, Skellam
from manent.core.errors import InvalidInput, Refused
from manent.core.layers import Form, Gathering, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays
from manent.crypto.samplers.noise import STATISTICAL_DISTANCE, discrete_gaussian, discrete_laplace, rounded_gaussian, skellam
from manent.layers.order import refuse_order

Mechanism = Literal["gaussian", "laplace"]
Where = Literal["server", "each client", "shares"]
LEAST_LOCAL_STDDEV = 2.0
"""In steps of the grid: from here on, a sum of discrete Gaussians is as good as one (Kairouz, Liu, Steinke 2021, Theorem 1)."""
_PIECE = 1 << 15
_REACH = 16.0  # no sampler gives more than so many deviations, but for Laplace and Skellam, where it is taken ten times


@dataclass(frozen=True)
class NoiseStage(Stage):
    """Noise for one sum.

    Attributes:
        event: what one release costs against those who see the total.
        seen: what one vector costs against those who see it as it left its client, or None where nothing protects it.
        where: who draws the noise.
        stddev: of the noise in the total, at least, in the unit of the vector before it was made whole.
    """

    event: Event
    seen: Event | None
    where: Where
    stddev: float


@dataclass(frozen=True)
class _One:
    """Noise of one law, of a scale relative to one client's norm.

    Attributes:
        noise_multiplier: deviation (for Laplace: scale) over the norm bound of one client; None takes it from the budget.
        mechanism: "gaussian", rounded; or "laplace", discrete, for pure epsilon: it needs Clip(order=1).
    """

    noise_multiplier: float | None = None
    mechanism: Mechanism = "gaussian"
    place: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_multiplier(type(self).__name__, self.noise_multiplier)
        if self.mechanism not in ("gaussian", "laplace"):
            raise InvalidInput(f"{type(self).__name__} expects mechanism 'gaussian' or 'laplace'; found {self.mechanism!r}.")

    @abstractmethod
    def enter(self, form: Form, gathering: Gathering) -> Stage: ...

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
    """The server adds noise to the total, once, in the step that releases it. It is trusted to, and sees what it adds it to."""

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        scale, event = self._law(form, gathering)
        given = replace(form, noise=type(self).__name__)
        return CentralStage(given, event, None, "server", scale * (form.grid or 1.0), scale, self.mechanism)


@final
@dataclass(frozen=True)
class LocalNoise(_One):
    """Each client adds all the noise that protects it to its own vector: it need not trust the server."""

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        scale, event = self._law(form, gathering)
        given = replace(form, noise=type(self).__name__, spread=reach(scale, self.mechanism))
        return LocalStage(given, event, event, "each client", scale * (form.grid or 1.0), scale, self.mechanism)


@final
@dataclass(frozen=True)
class DistributedNoise:
    """Each client adds a share of the noise; together the shares of those that are certain to answer make up all of it.

    Of n that are asked, h = ceil((1 - dropout - colluders) n) are honest and answer; each adds noise of variance sigma^2 / h.
    With fewer than h + floor(colluders n) answers nothing is released, so no noise is lost.

    "discrete_gaussian": Kairouz, Liu, Steinke 2021, "The Distributed Discrete Gaussian Mechanism for Federated Learning with
    Secure Aggregation". "skellam": Agarwal, Kairouz, Liu 2021, "The Skellam Mechanism for Differentially Private Federated
    Learning".

    Attributes:
        noise_multiplier: sigma over the norm bound of one client; None takes it from the budget.
        dropout: the largest share of those asked that may not answer.
        colluders: the largest share that may leave its noise out, or tell it to the observer.
    """

    mechanism: Literal["discrete_gaussian", "skellam"] = "discrete_gaussian"
    noise_multiplier: float | None = None
    dropout: float = 0.0
    colluders: float = 0.0
    place: ClassVar[int] = 3

    def __post_init__(self) -> None:
        check_multiplier("DistributedNoise", self.noise_multiplier)
        if self.mechanism not in ("discrete_gaussian", "skellam"):
            raise InvalidInput(f"DistributedNoise expects mechanism 'discrete_gaussian' or 'skellam'; found {self.mechanism!r}.")
        if not (0 <= self.dropout < 1 and 0 <= self.colluders < 1 and self.dropout + self.colluders < 1):
            raise InvalidInput(
                f"DistributedNoise expects shares dropout and colluders in [0, 1) that add up to less than 1; "
                f"found {self.dropout!r} and {self.colluders!r}."
            )

    def honest(self, asked: int) -> int:
        """h: how many of those asked are certain to add their share."""
        return max(1, math.ceil((1 - self.dropout - self.colluders) * asked - 1e-9))

    def minimum(self, asked: int) -> int:
        """The fewest answers with which anything is released: h of them are honest, whoever colludes."""
        return min(asked, self.honest(asked) + math.floor(self.colluders * asked + 1e-9))

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        refuse_order("DistributedNoise", form, whole=True)
        z = multiplier("DistributedNoise", self.noise_multiplier, gathering)
        norm, parties = bound(form, "DistributedNoise"), self.honest(gathering.most)
        local = z * norm / math.sqrt(parties)
        fault = form.fault
        if local < LEAST_LOCAL_STDDEV:
            fault = (
                f"One client's share of the noise is {local:.3g} steps of the grid; at least {LEAST_LOCAL_STDDEV:g} are needed. "
                f"Use a finer grid (more bits), or more noise."
            )
        l1 = min(norm * math.sqrt(form.layout.size), norm**2, form.l1 or math.inf)
        given = replace(form, noise="DistributedNoise", spread=reach(local, self.mechanism), fault=fault)
        event, alone = (self._event(local, n, norm, l1, form.layout.size) for n in (parties, 1))
        return SharesStage(given, event, alone, "shares", z * norm * (form.grid or 1.0), local, self.mechanism, parties)

    def _event(self, local: float, parties: int, l2: float, l1: float, size: int) -> Event:
        if self.mechanism == "skellam":
            return Skellam(parties * local**2, l2, l1)
        return DistributedDiscreteGaussian(local, parties, l2, l1, size)


@dataclass(frozen=True)
class CentralStage(NoiseStage):
    """See `CentralNoise`. `scale` is in steps of the grid."""

    scale: float
    mechanism: Mechanism

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        return total + draw(self.mechanism, self.scale, total.shape, random), state


@dataclass(frozen=True)
class LocalStage(NoiseStage):
    """See `LocalNoise`. `scale` is in steps of the grid."""

    scale: float
    mechanism: Mechanism

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        return add_noise(vectors, self.mechanism, self.scale, random)


@dataclass(frozen=True)
class SharesStage(NoiseStage):
    """See `DistributedNoise`. `local` is the deviation of one share, in steps of the grid; `parties` is h."""

    local: float
    mechanism: Literal["discrete_gaussian", "skellam"]
    parties: int

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        return add_noise(vectors, self.mechanism, self.local, random)


def draw(law: str, scale: float, shape: tuple[int, ...], random: PrivateRandom) -> NDArray[np.int64]:
    """int64[shape], fresh noise; of this deviation, or for Laplace of this scale, in steps of the grid."""
    if law == "gaussian":
        return rounded_gaussian(scale, shape, random)
    if law == "laplace":
        return discrete_laplace(scale, shape, random)
    return skellam(scale**2, shape, random) if law == "skellam" else discrete_gaussian(scale, shape, random)


def add_noise(vectors: Array, law: str, scale: float, random: PrivateRandom) -> Array:
    """Whole numbers [k, d], which are changed in place, with fresh noise: a piece at a time, which stays in the cache."""
    flat = vectors.reshape(-1)
    for start in range(0, flat.size, _PIECE):
        part = flat[start : start + _PIECE]
        part += draw(law, scale, part.shape, random)
    return flat.reshape(vectors.shape)


def reach(scale: float, law: str) -> float:
    """More than any draw of the samplers can be in size."""
    return _REACH * scale * (10 if law in ("laplace", "skellam") else 1) + 100


def multiplier(layer: str, own: float | None, gathering: Gathering) -> float:
    """The layer's own noise multiplier, else the budget's. Raises InvalidInput where there is neither."""
    found = own if own is not None else gathering.noise_multiplier
    if found is None:
        raise InvalidInput(f"{layer} needs noise_multiplier=..., or Study(budget=Budget(...)) to derive it from.")
    return found


def bound(form: Form, layer: str) -> float:
    """The Euclidean norm bound. Raises Refused where nothing bounds a client's vector."""
    if form.l2 is None:
        raise Refused(f"Nothing bounds a client's vector before {layer}. Put Clip(norm) or AdaptiveClip() first.")
    return form.l2


def check_multiplier(layer: str, value: float | None) -> None:
    """Raises InvalidInput for a noise multiplier that is none."""
    if value is not None and (isinstance(value, bool) or not (math.isfinite(value) and value > 0)):
        raise InvalidInput(f"{layer} expects a finite noise_multiplier > 0, or None; found {value!r}.")
