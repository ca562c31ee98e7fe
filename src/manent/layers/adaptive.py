"""A clip norm that follows a quantile of the clients' norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from manent.core.errors import InvalidInput
from manent.core.layers import Form, Gathering, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays, Layout, scalar
from manent.layers.clip import clip, norm
from manent.layers.order import refuse_order


@final
@dataclass(frozen=True)
class AdaptiveClip:
    """Clip to a norm C that moves towards a quantile of the clients' norms.

    Andrew, Thakkar, McMahan, Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping": each client also sends
    whether its norm is at most C, and C *= exp(-lr * (fraction of such clients - quantile)). The bit, less 1/2, is a block of
    the same vector: scaled so that its sum gets noise of deviation `count_stddev`, while the update gets
    z' = (z^-2 - (2 count_stddev)^-2)^(-1/2) instead of z (their Theorem 1). Sums are divided by the public, expected count.

    The vector travels in units of C, so one client's norm is bounded by a number that never changes.

    Attributes:
        quantile: in (0, 1).
        lr: geometric learning rate, > 0.
        initial: first C, in the unit of the vector.
        count_stddev: noise on the number of clients within C; None takes a twentieth of the expected cohort, as in the paper.
    """

    quantile: float = 0.5
    lr: float = 0.2
    initial: float = 0.1
    count_stddev: float | None = None
    place: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise InvalidInput(f"AdaptiveClip expects 0 < quantile < 1; found {self.quantile!r}.")
        for name in ("lr", "initial", "count_stddev"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidInput(f"AdaptiveClip expects a finite {name} > 0; found {value!r}.")

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        refuse_order("AdaptiveClip", form)
        layout = Layout((*form.layout.blocks, scalar("within_clip")))
        z, deviation = gathering.noise_multiplier, self.count_stddev or gathering.expected / 20
        scale, fault = 1.0, None
        if z is not None and z < 2 * deviation:
            scale = update_multiplier(z, deviation) / deviation
        elif z is not None:
            fault = (
                f"AdaptiveClip leaves no budget for the update: noise multiplier {z:.3g} needs count_stddev > {z / 2:.3g}, "
                f"found {deviation:.3g}. Raise count_stddev, or the cohort."
            )
        bound = math.sqrt(1 + scale**2 / 4)
        return AdaptiveStage(Form(layout, l2=bound, largest=bound, fault=fault), self, scale, gathering.expected)


def update_multiplier(z: float, count_stddev: float) -> float:
    """z', the update's noise multiplier where a bit of sensitivity 1/2 takes its share of z (Andrew et al. 2021, Theorem 1).

    Args:
        count_stddev: above z / 2.
    """
    return float((z**-2 - (2 * count_stddev) ** -2) ** -0.5)


@dataclass(frozen=True)
class AdaptiveStage(Stage):
    """See `AdaptiveClip`. State: "norm", C, a number that float32 holds."""

    layer: AdaptiveClip
    scale: float
    expected: float

    def init(self) -> Arrays:
        return {"norm": np.array([self.layer.initial], np.float32)}

    def sends(self, state: Arrays) -> Arrays:
        return {"norm": np.asarray(state["norm"], np.float32)}

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        bound = float(sent["norm"][0])
        out = np.zeros((len(vectors), vectors.shape[1] + 1))
        for row, vector in zip(out, vectors, strict=True):
            if np.isfinite(vector).all():
                row[:-1] = clip(vector, bound) / bound
                row[-1] = self.scale * (float(norm(vector.astype(np.float64)) <= bound) - 0.5)
        return out

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        bound = float(state["norm"][0])
        within = total[-1] / self.scale / self.expected + 0.5
        return total[:-1] * bound, {"norm": np.array([self._next(bound, within)], np.float32)}

    def _next(self, bound: float, within: float) -> float:
        """C after a round in which this fraction, noised, was within it. More within than wanted: C shrinks."""
        step = -self.layer.lr * (within - self.layer.quantile)
        return float(np.clip(bound * math.exp(min(max(step, -50.0), 50.0)), 1e-30, 1e30))
