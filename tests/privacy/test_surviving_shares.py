"""What is stated rests on the noise that is certain to be in the sum, not on what was planned; and budgets on every observer."""

from __future__ import annotations

import pytest

import manent as mn
from manent.accounting import epsilon
from manent.accounting.events import Gaussian
from tests.privacy.studies import DATA, budget, study

SECURE = mn.SecAgg(minimum_cohort=3, corrupt=0.0, dropped=0.4, modelled=True)


@pytest.mark.parametrize("mechanism", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("dropout", [0.0, 0.2, 0.4])
def test_epsilon_counts_the_shares_of_those_who_are_certain_to_answer(mechanism, dropout):
    """Their shares make up deviation z exactly, so no epsilon is below that of Gaussian noise of z (0.1% for the rounding)."""
    layers = [mn.Clip(0.5), mn.DistributedNoise(mechanism, 1.5, dropout=dropout)]
    private = study(layers, rounds=1, summation=SECURE, budget=budget(50.0, neighboring_relation="zero_out"))
    least = epsilon(Gaussian(1.5), 1e-3, "zero_out").epsilon
    for observer in mn.check(private, DATA).observers:
        assert observer.epsilon is None or observer.epsilon >= 0.999 * least


def test_a_budget_is_held_against_the_server_too_where_noise_protects_from_it():
    """The server knows who was asked: sampling amplifies against the public alone, and a budget between the two is refused."""
    cohort, layers = mn.Cohort(sampling_probability=0.3), [mn.Clip(0.5), mn.LocalNoise(1.0)]
    kept = budget(0.95 * epsilon(Gaussian(1.0), 1e-3, "zero_out").epsilon, neighboring_relation="zero_out")
    with pytest.raises(mn.Refused, match="server"):
        mn.check(study(layers, rounds=1, cohort=cohort, budget=kept), DATA)
    layers = [mn.Clip(0.5), mn.LocalNoise()]
    found = mn.check(study(layers, 1, cohort=cohort, budget=budget(4.0, neighboring_relation="zero_out")), DATA)
    server = next(observer for observer in found.observers if observer.name == "server")
    assert server.epsilon == pytest.approx(4.0, rel=1e-3)
