"""Speed of the exact integer samplers, in one thread, beside float noise of numpy and the exact noise of OpenDP.

    python benchmarks/noise.py [--json] [--samples 4000000]

A speed is samples per second of CPU time, the best of several runs; each law's table is built beforehand. The last line with
--json is one object: `gaussian_per_second` for the rounded Gaussian at sigma 10 and 10,000, `per_second` for the whole table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from common import keep, show

from manent.core.randomness import PrivateRandom
from manent.crypto import SystemRandom
from manent.crypto.samplers.chance import bernoulli, stochastic_round
from manent.crypto.samplers.noise import discrete_gaussian, discrete_laplace, rounded_gaussian, skellam
from manent.crypto.samplers.tables import STATISTICAL_DISTANCE, sampler

RUNS = 7
TARGET = 20_000_000

Draw = Callable[[int], object]


def per_second(draw: Draw, samples: int) -> float:
    draw(1)
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        draw(samples)
        times.append(time.process_time() - start)
    return samples / min(times)


def ours(most: int) -> Iterator[tuple[str, Draw]]:
    random = SystemRandom()

    def of(law: Callable[[float, int, PrivateRandom], object], parameter: float) -> Draw:
        return lambda n: law(parameter, n, random)

    for sigma in (0.7, 10.0, 1e2, 1e4, 1e7):
        yield f"rounded_gaussian sigma={sigma:g}", of(rounded_gaussian, sigma)
    for sigma in (10.0, 1e4):
        yield f"discrete_gaussian sigma={sigma:g}", of(discrete_gaussian, sigma)
    for scale in (10.0, 1e4):
        yield f"discrete_laplace scale={scale:g}", of(discrete_laplace, scale)
    for variance in (1e2, 1e8):
        yield f"skellam variance={variance:g}", of(skellam, variance)
    yield "bernoulli p=0.3", lambda n: bernoulli(0.3, n, random)
    x = np.random.default_rng(1).normal(0, 100, most)
    yield "stochastic_round", lambda n: stochastic_round(x[:n], random)


def floats() -> Iterator[tuple[str, Draw]]:
    """Not private: a seeded generator, in floating point."""
    generator = np.random.default_rng(1)
    yield "numpy normal float64 (PCG64)", lambda n: generator.normal(0, 1e4, n)
    yield "numpy normal, rounded to int64", lambda n: np.rint(generator.normal(0, 1e4, n)).astype(np.int64)


def opendp() -> Iterator[tuple[str, Draw]]:
    """The discrete Gaussian and Laplace on vectors of integers, where OpenDP is installed."""
    try:
        import opendp.prelude as dp
    except ImportError:
        return
    dp.enable_features("contrib")

    def measured(mechanism: Callable[[list[int]], object], n: int) -> object:
        return mechanism([0] * n)

    for sigma in (10.0, 1e4):
        space = dp.vector_domain(dp.atom_domain(T=int)), dp.l2_distance(T=float)
        gaussian = dp.m.make_gaussian(*space, sigma)
        yield f"OpenDP {dp.__version__} discrete Gaussian sigma={sigma:g}", partial(measured, gaussian)
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.l1_distance(T=int)
    laplace = dp.m.make_laplace(*space, 1e4)
    yield f"OpenDP {dp.__version__} discrete Laplace scale=10000", partial(measured, laplace)


def build_seconds(sigma: float) -> float:
    times = []
    for _ in range(RUNS):
        sampler.cache_clear()
        start = time.process_time()
        rounded_gaussian(sigma, 1, SystemRandom())
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true")
    options.add_argument("--samples", type=int, default=4_000_000)
    chosen = options.parse_args()
    rounded_gaussian(1.0, 1, SystemRandom())  # what the first call alone costs
    speeds = {name: per_second(draw, chosen.samples) for name, draw in (*ours(chosen.samples), *floats())}
    speeds |= {name: per_second(draw, chosen.samples // 200) for name, draw in opendp()}
    show(
        f"Samples a second of CPU time, one thread, {chosen.samples:,} at a time, best of {RUNS}",
        ("sampler", "million a second"),
        [(name, speed / 1e6) for name, speed in speeds.items()],
    )
    builds = {f"{sigma:g}": build_seconds(sigma) for sigma in (0.7, 7.9, 10.0, 1e4)}
    show("Table of the rounded Gaussian, once a sigma", ("sigma", "ms"), [(s, 1e3 * t) for s, t in builds.items()])
    gaussian = {str(sigma): round(speeds[f"rounded_gaussian sigma={sigma}"]) for sigma in (10, 10000)}
    print(f"Total variation distance of a sample from its law: below {STATISTICAL_DISTANCE:.1e}")
    print(f"Rounded Gaussian at sigma 10 and 10,000: at least {min(gaussian.values()):,} a second (wanted: {TARGET:,})")
    values = {
        "gaussian_per_second": gaussian,
        "statistical_distance": STATISTICAL_DISTANCE,
        "per_second": {name: round(speed) for name, speed in speeds.items()},
        "table_seconds": builds,
        "numpy": np.__version__,
    }
    keep("noise", values, chosen.json)


if __name__ == "__main__":
    main()
