"""Integer noise, drawn exactly: rounded and discrete Gaussian, discrete Laplace, Skellam.

All draws are independent, and each is within total variation distance `STATISTICAL_DISTANCE` of its law; the proof is in
`crypto.samplers.tables`. A parameter means the exact value of the float64 that it is given as.

| sampler             | P(k)                                                     | parameter in           | variance             |
|---------------------|----------------------------------------------------------|------------------------|----------------------|
| `rounded_gaussian`  | Phi((k + 1/2) / sigma) - Phi((k - 1/2) / sigma)          | sigma: [2^-4, 2^50]    | about sigma^2 + 1/12 |
| `discrete_gaussian` | proportional to exp(-k^2 / 2 sigma^2)                    | sigma: [2^-4, 2^50]    | at most sigma^2      |
| `discrete_laplace`  | proportional to exp(-abs(k) / scale)                     | scale: [2^-4, 2^50]    | about 2 scale^2      |
| `skellam`           | difference of two Poisson variables of mean variance / 2 | variance: [2^-8, 2^50] | variance             |

| edge case                            | what happens                                                                      |
|--------------------------------------|-----------------------------------------------------------------------------------|
| a parameter outside, text, NaN, None | InvalidInput                                                                      |
| an empty size, such as 0 or (3, 0)   | an empty array; nothing is drawn                                                  |
| two calls of size 10                 | not the draws of one call of 20: the values decide how much of the source is used |
| somebody who can time single draws   | learns of their values: that is not protected against                             |
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.errors import InvalidInput
from manent.core.randomness import PrivateRandom
from manent.crypto.bits import Size, checked_shape
from manent.crypto.samplers.laws import DiscreteGaussian, DiscreteLaplace, Poisson, RoundedGaussian
from manent.crypto.samplers.tables import STATISTICAL_DISTANCE, Law, sampler

__all__ = ["STATISTICAL_DISTANCE", "discrete_gaussian", "discrete_laplace", "rounded_gaussian", "skellam", "undrawable"]

SMALLEST, LARGEST = 2.0**-4, 2.0**50
"""Bounds on sigma and scale, in steps of the integer grid. Below the smallest, nearly every draw is 0."""


def rounded_gaussian(sigma: float, size: Size, random: PrivateRandom) -> NDArray[np.int64]:
    """int64[size]: a Gaussian of standard deviation sigma, rounded to the nearest integer.

    P(k) = Phi((k + 1/2) / sigma) - Phi((k - 1/2) / sigma). For integers x, x + round(z) = round(x + z), so adding this noise to
    an integer is the Gaussian mechanism, followed by rounding. The variance is about sigma^2 + 1/12.

    Raises InvalidInput where sigma is not in [2^-4, 2^50], or size is not a shape.
    """
    return _draw(RoundedGaussian(_checked("sigma", sigma, SMALLEST, LARGEST)), size, random)


def discrete_gaussian(sigma: float, size: Size, random: PrivateRandom) -> NDArray[np.int64]:
    """int64[size], P(k) proportional to exp(-k^2 / 2 sigma^2) (Canonne, Kamath, Steinke 2020, definition 1).

    Raises InvalidInput where sigma is not in [2^-4, 2^50], or size is not a shape.
    """
    return _draw(DiscreteGaussian(_checked("sigma", sigma, SMALLEST, LARGEST)), size, random)


def discrete_laplace(scale: float, size: Size, random: PrivateRandom) -> NDArray[np.int64]:
    """int64[size], P(k) proportional to exp(-|k| / scale): pure epsilon = sensitivity / scale.

    The variance is 2 q / (1 - q)^2 with q = exp(-1 / scale), about 2 scale^2.

    Raises InvalidInput where scale is not in [2^-4, 2^50], or size is not a shape.
    """
    return _draw(DiscreteLaplace(_checked("scale", scale, SMALLEST, LARGEST)), size, random)


def skellam(variance: float, size: Size, random: PrivateRandom) -> NDArray[np.int64]:
    """int64[size]: the difference of two independent Poisson variables, each of mean variance / 2.

    `variance` is the variance of the result (mu in Agarwal, Kairouz, Liu 2021, "The Skellam mechanism for differentially private
    federated learning"). A sum of Skellam variables is a Skellam variable, and its variance is the sum of theirs.

    Raises InvalidInput where variance is not in [2^-8, 2^50], or size is not a shape.
    """
    law = Poisson(_checked("variance", variance, SMALLEST**2, LARGEST) / 2)
    result = _draw(law, size, random)
    flat, step = result.reshape(-1), 1 << 18
    for start in range(0, flat.size, step):
        part = flat[start : start + step]
        part -= _draw(law, part.size, random)
    return result


def undrawable(law: str, scale: float) -> str | None:
    """Why no sampler draws noise of this deviation (for "laplace": scale), with the cure; None where one does.

    Args:
        law: "gaussian", "laplace", "discrete_gaussian" or "skellam".
        scale: in steps of the grid.
    """
    largest = math.sqrt(LARGEST) if law == "skellam" else LARGEST
    if SMALLEST <= scale <= largest:
        return None
    cure = "a finer grid or more noise" if scale < SMALLEST else "a coarser grid or less noise"
    return f"Noise of {scale:.3g} steps of the grid cannot be drawn: expected {SMALLEST:g} to {largest:.3g} steps. Use {cure}."


def _draw(law: Law, size: Size, random: PrivateRandom) -> NDArray[np.int64]:
    out = np.empty(checked_shape(size), np.int64)
    sampler(law).draw(out.reshape(-1), random)
    return out


def _checked(name: str, value: Any, minimum: float, most: float) -> float:
    if not (validate.is_number(value) and minimum <= float(value) <= most):
        raise InvalidInput(f"Expected {name} between {minimum:.3g} and {most:.3g}, found {value!r}. Change it or the grid.")
    return float(value)
