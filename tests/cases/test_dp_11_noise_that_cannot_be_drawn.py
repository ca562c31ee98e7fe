"""What `check` lets pass can be drawn: noise that no sampler draws on the grid is refused before data are touched."""

from __future__ import annotations

import pytest

import manent as mn
from manent.crypto.random import SystemRandom
from manent.crypto.samplers.noise import (
    LARGEST,
    SMALLEST,
    discrete_gaussian,
    discrete_laplace,
    rounded_gaussian,
    skellam,
    undrawable,
)

DATA = mn.data.digits(clients=40, flat=True)


def study(*layers, **more):
    algorithm = mn.FedAvg(mn.SoftmaxModel(64, 10), mn.LocalSGD(lr=1.0, epochs=1, batch_size=4), weighting="equal")
    return mn.Study(algorithm=algorithm, rounds=1, layers=layers, **more)


@pytest.mark.parametrize(
    "layers",
    [
        (mn.Clip(1.0), mn.CentralNoise(noise_multiplier=1e8)),
        (mn.Clip(1.0), mn.Discretize(grid=1.0), mn.CentralNoise(noise_multiplier=0.001)),
        (mn.Clip(1.0, order=1), mn.CentralNoise(noise_multiplier=1e8, mechanism="laplace")),
        (mn.Clip(1.0), mn.LocalNoise(noise_multiplier=1e8)),
        (mn.Clip(1.0), mn.LocalNoise(noise_multiplier=1e-9)),
        (mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=1e9)),
        (mn.Clip(1.0), mn.DistributedNoise(mechanism="skellam", noise_multiplier=1e3)),
    ],
    ids=lambda layers: str(layers[-1])[:60],
)
def test_check_refuses_it(layers):
    with pytest.raises(mn.Refused, match=r"cannot be drawn|steps of the grid"):
        mn.check(study(*layers), DATA)


@pytest.mark.parametrize("z", [1e-8, 0.9, 6e7])
def test_what_check_lets_pass_runs(z):
    ran = mn.simulate(study(mn.Clip(1.0), mn.CentralNoise(noise_multiplier=z)), DATA, seed=1)
    assert ran.model is not None


@pytest.mark.parametrize("law", ["gaussian", "laplace", "discrete_gaussian", "skellam"])
@pytest.mark.parametrize("scale", [SMALLEST / 2, SMALLEST, 1.0, 2.0**25, 2.0**25 * 1.1, LARGEST, LARGEST * 1.1])
def test_the_range_that_is_told_is_that_of_the_sampler(law, scale):
    draw = {"gaussian": rounded_gaussian, "laplace": discrete_laplace, "discrete_gaussian": discrete_gaussian}
    random = SystemRandom()

    def drawn() -> None:
        skellam(scale**2, 1, random) if law == "skellam" else draw[law](scale, 1, random)

    if undrawable(law, scale) is None:
        drawn()
    else:
        with pytest.raises(mn.InvalidInput, match="Expected"):
            drawn()
