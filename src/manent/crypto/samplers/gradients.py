"""The draws of DP-SGD: exact Poisson batches, and integer noise on a sum of clipped gradients.

| question                               | answer                                                                        |
|----------------------------------------|-------------------------------------------------------------------------------|
| the batch                              | each row is in with exactly the given probability, independently              |
| the noise                              | a Gaussian, rounded; its deviation is noise_multiplier * grid_sensitivity(p)  |
| its guarantee                          | that of a Gaussian mechanism with this noise_multiplier, followed by rounding |
| error of the sampler, into delta       | `sampler_error(p)` a step                                                     |
| a sum that is not finite, or too large | InvalidInput: no sum of clipped gradients is                                  |
"""

from __future__ import annotations

import math
from typing import final

import numpy as np
from numpy.typing import NDArray

from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.core.training.dpsgd import SUM_SLACK
from manent.core.vectors import Array
from manent.crypto.samplers.chance import bernoulli
from manent.crypto.samplers.noise import rounded_gaussian
from manent.crypto.samplers.tables import STATISTICAL_DISTANCE


def grid_bits(parameters: int) -> int:
    """log2 of the number of grid steps in one clip norm: 20, and more for so many parameters that their rounding would show."""
    return 20 + max(0, math.ceil(math.log2(max(parameters, 1)) / 2) - 10)


def grid_sensitivity(parameters: int) -> float:
    """The most, in L2 norm and in grid steps, by which adding or removing one example changes `on_grid`.

    Proof. Let S and S' be the two sums: |S - S'| <= (1 + SUM_SLACK) C, by `core.training.dpsgd`. With s = 2^bits / C, rint(S s)
    differs from S s by at most 1/2 in each coordinate, and by the rounding of s and of the product: 2^-51 |S| s in norm, where
    |S| s <= 2^20 * 2^bits * 1.01, so at most 2^(bits - 30). Hence
    |on_grid(S) - on_grid(S')| <= 2^bits (1 + SUM_SLACK + 2^-29) + sqrt(p), which adding 2^-20 of all covers, with the
    roundings of this function.
    """
    return (2.0 ** grid_bits(parameters) * (1 + SUM_SLACK) + math.sqrt(parameters)) * (1 + 2.0**-20)


def on_grid(total: Array, clip_norm: float) -> NDArray[np.int64]:
    """int64[p], a sum of clipped gradients float64[p] rounded to whole steps of clip_norm / 2^grid_bits(p).

    Raises InvalidInput where the sum is not finite, or larger than any sum of clipped gradients.
    """
    scaled = np.asarray(total, np.float64) * (2.0 ** grid_bits(total.size) / clip_norm)
    if not (scaled.max(initial=0.0) < 2.0**62 and scaled.min(initial=0.0) > -(2.0**62)):  # not so for NaN either
        raise InvalidInput("A sum of clipped gradients is finite, and far below 2^42 clip norms; this one is not.")
    np.rint(scaled, out=scaled)
    return scaled.astype(np.int64)


def sampler_error(parameters: int) -> float:
    """A bound on the total variation distance between one step's noise and its law. It is added to delta. Batches are exact."""
    return parameters * STATISTICAL_DISTANCE


@final
class ExactDraws:
    """Batches and noise from a private source. Nothing is sampled in floating point.

    The noise is a rounded Gaussian on the integers of `on_grid`, of standard deviation noise_multiplier * grid_sensitivity(p). So
    the noisy integers, and whatever is computed from them, are post-processing of a Gaussian mechanism with this noise
    multiplier. In the unit of the gradients the standard deviation is noise_multiplier * clip_norm, plus about one thousandth.
    """

    def __init__(self, random: PrivateRandom) -> None:
        self._random = random

    @property
    def secure(self) -> bool:
        """False where the draws come from a seed. Then no epsilon holds."""
        return self._random.secure

    def rows(self, probability: float, examples: int) -> NDArray[np.int64]:
        """int64[b], sorted row numbers: each of `examples` rows is drawn independently, with exactly this probability."""
        return np.flatnonzero(bernoulli(probability, examples, self._random))

    def noisy(self, total: Array, clip_norm: float, noise_multiplier: float) -> Array:
        """float64[p], a sum of clipped gradients plus noise. Raises InvalidInput for what cannot be such a sum."""
        whole = on_grid(total, clip_norm)
        whole += rounded_gaussian(noise_multiplier * grid_sensitivity(total.size), total.size, self._random)
        return whole * (clip_norm / 2.0 ** grid_bits(total.size))
