"""Differential privacy for single examples in local training, as data: what is declared, drawn, and asked of a model.

A step of DP-SGD (Abadi et al. 2016, "Deep Learning with Differential Privacy", Algorithm 1): every example enters the batch
independently with the same probability, its gradient is scaled down to the clip norm, the gradients are summed, noise is added,
and the sum is divided by the *expected* batch size. How many examples there are is private, so nothing here depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.examples import Examples
from manent.core.vectors import Array, Vector

LARGEST_BATCH = 1 << 20
"""Examples in one batch, at most: the bound on what floating point adds to a sum of gradients is proven up to there."""

SUM_SLACK = 2.0**-10
"""Adding or removing an example changes `clipped_gradient_sum`, as computed, by at most (1 + SUM_SLACK) * clip_norm.

Proof. Write u = 2^-53, g(k) = k u / (1 - k u), and C for the clip norm. Model files keep these rules:

1. An example's gradient is held as exact numbers: float32 coordinates, or the outer product of two vectors of float32. Its
   squared norm is summed in float64 (for a product, from those of the two vectors), in any order. With p <= 2^32 coordinates the
   relative error is below g(p + 8) < 2^-20, and that of the norm below 2^-21. Nothing overflows or underflows on the way: squares
   of float32 lie between 2^-298 and 2^256, products of two sums of such between 2^-596 and 2^576.
2. `clip_factors` gives f <= min(1, C / norm) (1 + u)^2, so that f times the gradient has a norm of at most C (1 + 2^-20), and
   zero where the norm is not finite; such a gradient is set to zero beforehand.
3. The n <= 2^20 weighted gradients are summed in float64, in any order, with or without fused multiply-add, in any number <= n of
   parts. A coordinate of the sum is off by at most g(2 n + 4) times the sum of the sizes of its terms (Higham 2002, "Accuracy
   and Stability of Numerical Algorithms", section 4.2), hence the sum in norm by at most
   g(2 n + 4) n C (1 + 2^-20) < 2^-11.99 C.

Two sums, with and without the example, are each off by so much: their difference has a norm of at most
C (1 + 2^-20 + 2 * 2^-11.99) < C (1 + 2^-10).

Taken for granted: the gradient of an example, as computed, is a function of that example and of the weights alone. A library
whose last bits depend on how many examples are computed together keeps to that only up to those bits.
"""

ASSUMPTION = "The gradient of an example, as computed, depends on that example and the weights alone, to the last bit."
"""What the bound takes for granted, for a statement."""


class PrivateDraws(Protocol):
    """What a private step draws; `manent.crypto.samplers.gradients.ExactDraws` is one. The source of randomness stays inside.

    Attributes:
        secure: False where the draws come from a seed, so that no epsilon holds.
    """

    @property
    def secure(self) -> bool: ...

    def rows(self, probability: float, examples: int) -> NDArray[np.int64]:
        """Sorted row numbers; each of `examples` rows is in independently with exactly this probability."""
        ...

    def noisy(self, total: Array, clip_norm: float, noise_multiplier: float) -> Array:
        """float64[p]: a `clipped_gradient_sum` with noise of standard deviation noise_multiplier * clip_norm, or a bit more."""
        ...


@dataclass(frozen=True)
class DPSGD:
    """Local steps that keep each example private: `LocalSGD(steps=..., batch_size=..., privacy=DPSGD(...))`.

    `batch_size` is then the expected size of a batch, and what its sum is divided by. Public are the steps, the expected size and
    the sampling probability; a client's true number of examples is not. All clients sample with the same probability, so one with
    twice the examples makes gradients twice as long: an example counts the same wherever it is.

    Attributes:
        clip_norm: the largest L2 norm of one example's gradient, over all parameters.
        noise_multiplier: standard deviation of the noise on a batch's sum, over clip_norm; None derives it from the study's
            budget.
        sampling_probability: with which each example enters a batch.
        examples: instead, the declared, public number of examples that a client has or is taken to have; the probability is then
            batch_size / examples.
    """

    clip_norm: float
    noise_multiplier: float | None = None
    sampling_probability: float | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        if not (validate.is_number(self.clip_norm) and 2.0**-64 <= self.clip_norm <= 2.0**64):
            raise InvalidInput(f"DPSGD expects a clip_norm > 0 (between 2^-64 and 2^64); found {self.clip_norm!r}.")
        z = self.noise_multiplier
        if z is not None and not (validate.is_number(z) and 2.0**-20 <= z <= 2.0**20):
            raise InvalidInput(
                f"DPSGD expects a noise_multiplier > 0 (between 2^-20 and 2^20), or None to derive it from a budget; found {z!r}."
            )
        q = self.sampling_probability
        if (q is None) == (self.examples is None):
            raise InvalidInput(
                f"DPSGD needs either sampling_probability or examples (a declared, public number; the true one is private); "
                f"found sampling_probability={q}, examples={self.examples}."
            )
        if q is not None:
            validate.fraction("DPSGD", "sampling_probability", q, zero=False)
        if self.examples is not None:
            validate.count("DPSGD", "examples", self.examples, ", the declared, public number of a client's examples")

    def check(self, batch_size: int | None) -> None:
        """Raises InvalidInput where the expected size of a batch is missing, or larger than the examples declared."""
        if batch_size is None:
            raise InvalidInput(
                "LocalSGD with privacy needs batch_size: the expected size of a batch, declared, because the true one is private."
            )
        if self.examples is not None and batch_size > self.examples:
            raise InvalidInput(
                f"LocalSGD expects batch_size of at most the {self.examples} examples that DPSGD declares; found {batch_size}."
            )

    def probability(self, batch_size: int) -> float:
        """With which each example enters a batch of this expected size."""
        if self.examples is not None:
            return batch_size / self.examples
        return float(self.sampling_probability or 1.0)


def clip_factors(squares: Array, clip_norm: float) -> NDArray[np.float64]:
    """float64[n], by which gradients of these squared norms [n] are scaled: min(1, clip_norm / norm).

    Zero for a gradient that is not finite, or too large to be squared: it contributes nothing, and nobody is told.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.sqrt(np.asarray(squares, np.float64))
        factors: NDArray[np.float64] = clip_norm / np.maximum(norms, clip_norm)
    factors[~np.isfinite(norms)] = 0.0
    return factors


ClippedSum = Callable[[Vector, Examples, float], tuple[Array, float]]
"""A model's `clipped_gradient_sum(vector, data, clip_norm)`: the sum over rows of the clipped gradients of each row's own loss,
float64[p], as `SUM_SLACK` asks; and the sum of the losses. Penalties on the weights are no part of either."""


def private_gradient(
    clipped: ClippedSum, size: int, privacy: DPSGD, batch_size: int, draws: PrivateDraws | None
) -> Callable[[Vector, Array, Array], tuple[float, Vector]]:
    """A function of (vector, x, y) to (mean loss of the rows, private gradient float32[size]); the rows may be none.

    Raises Refused where the noise is not known, or there is nothing to draw it from.
    """
    z = privacy.noise_multiplier
    if z is None:
        raise Refused(
            "Private training needs its noise: give DPSGD(noise_multiplier=...), or Study(budget=Budget(...)) to derive it from."
        )
    source = needed(draws)

    def gradient(vector: Vector, x: Array, y: Array) -> tuple[float, Vector]:
        if len(x) > LARGEST_BATCH:
            raise InvalidInput(f"A private batch holds at most {LARGEST_BATCH:,} examples; lower the sampling probability.")
        total, loss = clipped(vector, Examples(x, y), privacy.clip_norm) if len(x) else (np.zeros(size), 0.0)
        mean: Vector = (source.noisy(total, privacy.clip_norm, z) / batch_size).astype(np.float32)
        return (loss / len(x) if len(x) and isfinite(loss) else 0.0), mean

    return gradient


def needed(draws: PrivateDraws | None) -> PrivateDraws:
    """The draws. Raises Refused where there are none."""
    if draws is None:
        raise Refused("Private training draws its batches and its noise from a private source; this engine gave it none.")
    return draws


class PrivateModel(Protocol):
    """What a `Model` has besides, for training that keeps single examples private."""

    def check_private(self) -> None:
        """Raises Refused where the model has no gradient for each single example, as with BatchNorm, which mixes examples."""
        ...

    def clipped_gradient_sum(self, vector: Vector, data: Examples, clip_norm: float) -> tuple[Array, float]:
        """The sum of clipped gradients, and the sum of losses. See `ClippedSum`."""
        ...
