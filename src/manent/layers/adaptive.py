"""A clip norm that follows a quantile of the clients' norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.layers import Form, Gathering, Place, Stage
from manent.core.randomness import PrivateRandom
from manent.core.vectors import Array, Arrays, Layout, scalar
from manent.layers.clip import clip, norm
from manent.layers.order import refuse_order

_LEAST, _MOST = 1e-30, 1e30  # of C, which travels as float32


@final
@dataclass(frozen=True)
class AdaptiveClip:
    """Clip to a norm C that moves towards a quantile of the clients' norms.

    Andrew, Thakkar, McMahan, Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping". Each client also sends
    whether its norm is at most C, and C *= exp(-lr * (fraction of such clients - quantile)). This bit, less 1/2, is one more
    block of the same vector. It is scaled so that its sum gets noise of deviation `count_stddev`, and then the update gets
    z' = (z^-2 - (2 count_stddev)^-2)^(-1/2) instead of z (their Theorem 1). Sums are divided by the expected count, which is
    public.

    The vector travels in units of C, so that the bound on one client's norm is a number that never changes.

    | case | what holds |
    |---|---|
    | guarantee | none by itself; with a noise layer, update and bit together cost what z alone costs |
    | sensitivity | sqrt(1 + s^2 / 4) in units of C, where s is the scale of the bit |
    | no noise layer | the bit is sent as it is (s = 1): C follows the quantile without privacy |
    | count_stddev <= z / 2 | Refused: nothing of the budget is left for the update |
    | CorrelatedNoise | Refused: z' is worked out for independent rounds |
    | NaN or infinity in a vector | the client sends zeros, in the block of the bit too |
    | extreme norms | C stays within [1e-30, 1e30] |

    Attributes:
        quantile: in (0, 1).
        lr: geometric learning rate, > 0.
        initial: the first C, from 1e-30 to 1e30, in the unit of the vector.
        count_stddev: deviation of the noise on the number of clients within C, > 0. None takes a twentieth of the expected
            cohort, as in the paper.

    Raises:
        InvalidInput: for a value out of range.
    """

    quantile: float = 0.5
    lr: float = 0.2
    initial: float = 0.1
    count_stddev: float | None = None
    place: ClassVar[Place] = "clip"
    needs_independent_rounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        validate.fraction("AdaptiveClip", "quantile", self.quantile, zero=False, one=False)
        validate.sized("AdaptiveClip", "lr", self.lr)
        validate.sized("AdaptiveClip", "initial", self.initial)
        if not _LEAST <= self.initial <= _MOST:
            raise InvalidInput(
                f"AdaptiveClip expects initial from {_LEAST:g} to {_MOST:g}; found {self.initial!r}. Use another unit."
            )
        if self.count_stddev is not None:
            validate.sized("AdaptiveClip", "count_stddev", self.count_stddev, " or None (a twentieth of the cohort)")

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        """The stage, whose form has one more block: "within_clip", the bit. Raises Refused for a wrong order."""
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
        return AdaptiveStage(
            Form(layout, l2=bound, largest=bound, fault=fault, unit="the clip norm of the round"), self, scale, gathering.expected
        )


def update_multiplier(z: float, count_stddev: float) -> float:
    """z', the update's noise multiplier where a bit of sensitivity 1/2 takes its share of z (Andrew et al. 2021, Theorem 1).

    Args:
        z: the noise multiplier of update and bit together.
        count_stddev: of the noise on the sum of the bits; above z / 2.
    """
    return float((z**-2 - (2 * count_stddev) ** -2) ** -0.5)


@dataclass(frozen=True)
class AdaptiveStage(Stage):
    """See `AdaptiveClip`. State: "norm", float32[1], which is C.

    Attributes:
        scale: what the bit is multiplied by.
        expected: how many answers the sum of the bits is divided by.
    """

    layer: AdaptiveClip
    scale: float
    expected: float

    def init(self) -> Arrays:
        """The first C."""
        return {"norm": np.array([self.layer.initial], np.float32)}

    def sends(self, state: Arrays) -> Arrays:
        """Clients need C."""
        return {"norm": np.asarray(state["norm"], np.float32)}

    def client(self, vectors: Array, sent: Arrays, random: PrivateRandom) -> Array:
        """[k, d] to float64[k, d + 1]: each clipped to C, in units of C, and its bit.

        Raises InvalidInput for a C that the server's half never sends.
        """
        bound = float(sent["norm"][0])
        if not 0 < bound < math.inf:
            raise InvalidInput(f"AdaptiveClip expects a norm above 0 from the server, and a finite one; found {bound!r}.")
        out = np.zeros((len(vectors), vectors.shape[1] + 1))
        for row, vector in zip(out, vectors, strict=True):
            if np.isfinite(vector).all():
                row[:-1] = clip(vector, bound) / bound
                row[-1] = self.scale * (float(norm(vector.astype(np.float64)) <= bound) - 0.5)
        return out

    def server(self, total: Array, state: Arrays, random: PrivateRandom) -> tuple[Array, Arrays]:
        """[d + 1] to [d], in the unit of the vectors; and the next C."""
        bound = float(state["norm"][0])
        within = total[-1] / self.scale / self.expected + 0.5
        return total[:-1] * bound, {"norm": np.array([self._next(bound, within)], np.float32)}

    def _next(self, bound: float, within: float) -> float:
        """C after a round in which this fraction, with its noise, was within C. With more than the quantile, C shrinks."""
        step = -self.layer.lr * (within - self.layer.quantile)
        return float(np.clip(bound * math.exp(min(max(step, -50.0), 50.0)), _LEAST, _MOST))
