"""What private training costs an example, and the noise that keeps a budget."""

from __future__ import annotations

import pytest

from manent.accounting import Budget, epsilon, example_event, example_noise, training
from manent.core.errors import InvalidInput, Refused
from manent.core.training import LocalSGD
from manent.core.training.dpsgd import DPSGD


def local(q: float = 0.02, steps: int = 40, z: float | None = None) -> LocalSGD:
    return LocalSGD(lr=0.1, steps=steps, batch_size=8, privacy=DPSGD(1.0, z, sampling_probability=q))


def test_the_event_is_every_step_of_every_round():
    found = epsilon(example_event(local(z=1.1), 25, 26_010), 1e-5, "add_or_remove").epsilon
    assert found == pytest.approx(epsilon(training(1.1, 1000, 0.02), 1e-5, "add_or_remove").epsilon, rel=1e-6)
    declared = LocalSGD(lr=0.1, steps=40, batch_size=8, privacy=DPSGD(1.0, 1.1, examples=400))
    assert example_event(declared, 25, 26_010) == example_event(local(z=1.1), 25, 26_010)


@pytest.mark.parametrize(
    ("q", "steps", "rounds", "target"), [(0.02, 40, 15, 4.0), (0.1, 10, 10, 1.0), (1.0, 1, 30, 2.0), (0.005, 20, 10, 2.0)]
)
def test_the_noise_keeps_the_budget_and_hardly_less_would(q, steps, rounds, target):
    declared = local(q, steps)
    z = example_noise(declared, rounds, 1000, Budget(target, 1e-5, "example", "add_or_remove"))

    def cost(noise: float) -> float:
        return epsilon(example_event(declared.with_noise(noise), rounds, 1000), 1e-5, "add_or_remove").epsilon

    assert cost(z) <= target < cost(0.998 * z)


def test_replacing_an_example_costs_more_than_removing_it():
    event = example_event(local(z=1.0), 10, 1000)
    assert epsilon(event, 1e-5, "replace_one").epsilon > epsilon(event, 1e-5, "add_or_remove").epsilon


def test_what_has_no_cost_is_refused():
    with pytest.raises(Refused, match="no noise_multiplier"):
        example_event(local(), 1, 10)
    with pytest.raises(InvalidInput, match="private training"):
        example_event(LocalSGD(lr=0.1, steps=1), 1, 10)
    with pytest.raises(InvalidInput, match="rounds"):
        example_event(local(z=1.0), 0, 10)
    with pytest.raises(Refused, match="privacy_unit='example'"):
        example_noise(local(), 1, 10, Budget(1.0, 1e-5, "client", "add_or_remove"))
