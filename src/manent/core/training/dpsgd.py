"""Differential privacy for single examples in local training: what is declared, what is drawn, and what is asked of a model.

One step of DP-SGD (Abadi et al. 2016, "Deep Learning with Differential Privacy", Algorithm 1): each example enters the batch
independently, with the same probability. The gradient of each is scaled down to at most the clip norm. The gradients are summed,
noise is added to the sum, and the sum is divided by the *expected* batch size. A client's number of examples is private, so
nothing here depends on it.

| question                        | answer                                                                                      |
|---------------------------------|---------------------------------------------------------------------------------------------|
| guarantee                       | each step is a Poisson-subsampled Gaussian mechanism with noise_multiplier, for one example |
| sensitivity of the sum          | (1 + SUM_SLACK) * clip_norm in L2 norm, when one example is added or removed                |
| an empty batch                  | its sum is zero; the noise is added all the same                                            |
| a gradient with NaN or infinity | it is dropped: it counts as zero, and nobody is told                                        |
| a batch above LARGEST_BATCH     | InvalidInput: the bound on rounding is proven up to there only                              |
| the loss of a batch             | has no noise, so it stays with the client                                                   |
| a penalty on the weights (l2)   | is added after the noise; it does not depend on data                                        |
| training that fails             | the client sends noise alone, as one without examples would; only its operator is told      |
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
"""The most examples in one batch. Up to there `SUM_SLACK` bounds what rounding can add to a sum of gradients."""

SUM_SLACK = 2.0**-10
"""Adding or removing one example changes the computed `clipped_gradient_sum` by at most (1 + SUM_SLACK) * clip_norm in L2 norm.

Proof. Write u = 2^-53, g(k) = k u / (1 - k u), and C for the clip norm. Every model file keeps these rules:

1. An example's gradient, as computed, is a function of that example, the weights and the key of the pass alone (the key decides
   what random layers draw). It depends neither on the other rows, nor on how many there are, nor on its place among them. In a
   chain of known layers that follows from the arithmetic (`models.exact`). Elsewhere each example passes by itself, through the
   same operations on tensors of the same shapes (`models.torch.private`, `models.jax`).
2. It is held as exact numbers: float32 coordinates, whole numbers times a power of two, or the outer product of two such
   vectors. Its squared norm is computed in float64, by rule 1 with the same bits in every batch. With p <= 2^32 coordinates the
   relative error is below g(p + 8) < 2^-20, and that of the norm below 2^-21. Nothing overflows or underflows on the way: squares
   of float32 lie between 2^-298 and 2^256, products of two sums of such between 2^-596 and 2^576, squares of a convolution's
   gradients between 2^-692 and 2^592.
3. `clip_factors` gives f <= min(1, C / norm) (1 + u)^2, so that f times the gradient has a norm of at most C (1 + 2^-20), and
   zero where the norm is not finite; such a gradient is set to zero beforehand. By rules 1 and 2, f has the same bits in every
   batch. No batch's size goes into any of it: nothing is divided by the number of rows.
4. The n <= 2^20 weighted gradients are summed in float64, in any order, with or without fused multiply-add, in any number <= n of
   parts. A coordinate of the sum is off by at most g(2 n + 4) times the sum of the sizes of its terms (Higham 2002, "Accuracy
   and Stability of Numerical Algorithms", section 4.2), hence the sum in norm by at most
   g(2 n + 4) n C (1 + 2^-20) < 2^-11.99 C.

The exact sums of the weighted gradients, with the example and without it, differ by the example's own: every other term is the
same, by rule 3. The computed sums each have at most the error of rule 4, so their difference has a norm of at most
C (1 + 2^-20 + 2 * 2^-11.99) < C (1 + 2^-10).
"""

ASSUMPTION = (
    "The gradient of an example, as computed, depends on that example and the weights alone, to the last bit: in a chain of "
    "known layers by its arithmetic; elsewhere because a library that is given the same numbers in the same shapes does the same."
)
"""What the bound of `SUM_SLACK` assumes, as a sentence for the statement."""

LARGEST_WEIGHT = 2.0**40
"""Private training begins with weights that are finite and of at most this size, and refuses others: they are no model."""


class PrivateDraws(Protocol):
    """Draws the batches and the noise of private training. `manent.crypto.samplers.gradients.ExactDraws` implements it."""

    @property
    def secure(self) -> bool:
        """False where the draws come from a seed. Then no epsilon holds."""
        ...

    def rows(self, probability: float, examples: int) -> NDArray[np.int64]:
        """int64[b], sorted row numbers: each of `examples` rows is drawn independently, with exactly this probability."""
        ...

    def noisy(self, total: Array, clip_norm: float, noise_multiplier: float) -> Array:
        """float64[p]: a `clipped_gradient_sum` plus noise of standard deviation noise_multiplier * clip_norm, or a bit more."""
        ...


@dataclass(frozen=True)
class DPSGD:
    """Makes each local step private for single examples: `LocalSGD(steps=..., batch_size=..., privacy=DPSGD(...))`.

    `batch_size` is then the expected size of a batch, and each batch's sum is divided by it. The number of steps, the expected
    size and the sampling probability are public. A client's true number of examples is private. All clients sample with the same
    probability, so a client with twice as many examples has gradients twice as long: each example counts the same in any client.

    Attributes:
        clip_norm: each example's gradient is scaled down to at most this L2 norm over all parameters; from 2^-64 to 2^64.
        noise_multiplier: the standard deviation of the noise on a batch's sum, divided by clip_norm; from 2^-20 to 2^20. None
            derives it from the study's budget.
        sampling_probability: the probability with which each example enters a batch, in (0, 1]. Give this or `examples`.
        examples: the declared, public number of examples of a client. The probability is then batch_size / examples.

    Raises InvalidInput for a number out of range or of another type, and for both or neither of the last two.
    """

    clip_norm: float
    noise_multiplier: float | None = None
    sampling_probability: float | None = None
    examples: int | None = None

    def __post_init__(self) -> None:
        if not (validate.is_number(self.clip_norm) and 2.0**-64 <= self.clip_norm <= 2.0**64):
            raise InvalidInput(
                f"DPSGD expects a clip_norm > 0 (between 2^-64 and 2^64); found {validate.shown(self.clip_norm)}. "
                f"Give a number in that range: the L2 norm to which each example's gradient is scaled down."
            )
        z = self.noise_multiplier
        if z is not None and not (validate.is_number(z) and 2.0**-20 <= z <= 2.0**20):
            raise InvalidInput(
                f"DPSGD expects a noise_multiplier > 0 (between 2^-20 and 2^20), or None to derive it from a budget; "
                f"found {validate.shown(z)}. Give a number in that range, or None."
            )
        q = self.sampling_probability
        if (q is None) == (self.examples is None):
            raise InvalidInput(
                f"DPSGD needs either sampling_probability or examples (a declared, public number; the true one is private); "
                f"found sampling_probability={q}, examples={self.examples}. Give one of the two."
            )
        if q is not None:
            validate.fraction("DPSGD", "sampling_probability", q, zero=False)
            validate.within("DPSGD", "sampling_probability", q, validate.SMALLEST, 1.0)
        if self.examples is not None:
            validate.count("DPSGD", "examples", self.examples, ", the declared, public number of a client's examples")

    def check(self, batch_size: int | None) -> None:
        """Raises InvalidInput where the expected batch size is missing, or larger than the declared number of examples."""
        if batch_size is None:
            raise InvalidInput(
                "LocalSGD with privacy needs batch_size, the expected size of a batch: the true size is private, so declare one."
            )
        if self.examples is not None and batch_size > self.examples:
            raise InvalidInput(
                f"LocalSGD expects a batch_size of at most {self.examples}, the examples that DPSGD declares; found {batch_size}."
            )

    def probability(self, batch_size: int) -> float:
        """The probability with which each example enters a batch of this expected size."""
        if self.examples is not None:
            return batch_size / self.examples
        return float(self.sampling_probability or 1.0)


def clip_factors(squares: Array, clip_norm: float) -> NDArray[np.float64]:
    """float64[n], the factors min(1, clip_norm / norm) that clip gradients with these squared norms [n].

    | squared norm                              | factor                                           |
    |-------------------------------------------|--------------------------------------------------|
    | at most clip_norm^2, zero included        | 1                                                |
    | larger, and finite                        | clip_norm / norm                                 |
    | NaN or infinite (too large to be squared) | 0: the gradient adds nothing, and nobody is told |
    """
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.sqrt(np.asarray(squares, np.float64))
        factors: NDArray[np.float64] = clip_norm / np.maximum(norms, clip_norm)
    factors[~np.isfinite(norms)] = 0.0
    return factors


ClippedSum = Callable[[Vector, Examples, float], tuple[Array, float]]
"""A model's `clipped_gradient_sum(vector, data, clip_norm)`. It returns the sum over rows of each row's own clipped gradient,
float64[p], computed by the rules of `SUM_SLACK`, and the sum of the rows' losses. Neither contains penalties on the weights."""


def private_gradient(
    clipped: ClippedSum, size: int, privacy: DPSGD, batch_size: int, draws: PrivateDraws | None
) -> Callable[[Vector, Array, Array], tuple[float, Vector]]:
    """A function that maps (vector, x, y) to the rows' mean loss and their private gradient float32[size].

    There may be no rows: then the loss is 0 and the gradient is noise alone. The function raises InvalidInput for more than
    LARGEST_BATCH rows.

    Args:
        clipped: the model's `clipped_gradient_sum`.
        size: p, the number of parameters.
        privacy: clip norm and noise.
        batch_size: the expected batch size, by which the sum is divided.
        draws: draws the noise.

    Raises Refused where the noise multiplier is not known, or `draws` is None.
    """
    z = privacy.noise_multiplier
    if z is None:
        raise Refused(
            "Private training needs noise: give DPSGD(noise_multiplier=...), or Study(budget=Budget(...)) to derive it from."
        )
    source = needed(draws)

    def gradient(vector: Vector, x: Array, y: Array) -> tuple[float, Vector]:
        if len(x) > LARGEST_BATCH:
            raise InvalidInput(f"A private batch holds at most {LARGEST_BATCH:,} examples. Lower the sampling probability.")
        total, loss = clipped(vector, Examples(x, y), privacy.clip_norm) if len(x) else (np.zeros(size), 0.0)
        mean: Vector = (source.noisy(total, privacy.clip_norm, z) / batch_size).astype(np.float32)
        return (loss / len(x) if len(x) and isfinite(loss) else 0.0), mean

    return gradient


def refuse_weights(start: Vector) -> None:
    """Raises Refused for a weight that is not finite, or above LARGEST_WEIGHT in size. It tells nothing of data."""
    within = np.abs(start) <= LARGEST_WEIGHT
    if not within.all():
        place = int(within.argmin())
        raise Refused(
            f"Private training expects weights that are finite and at most 2^40 in size; the model that came has "
            f"{start[place]:g} at place {place}. A server that sends such weights is wrong, or training diverged: start from "
            f"other weights, or lower the learning rate."
        )


def needed(draws: PrivateDraws | None) -> PrivateDraws:
    """The draws given. Raises Refused where they are None."""
    if draws is None:
        raise Refused("Private training draws batches and noise from a private source, but this engine gave it none.")
    return draws
