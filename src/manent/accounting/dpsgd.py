"""What private local training (DP-SGD) costs each example, and the noise that a budget needs for it."""

from __future__ import annotations

from numbers import Integral

from manent.accounting.accountants import Accountant
from manent.accounting.calibration import calibrate
from manent.accounting.events import Event, Poisson, Repeated, RoundedGaussian, Sampled
from manent.core import validate
from manent.core.errors import InvalidInput, Refused
from manent.core.protocols import PrivacyBudget
from manent.core.training import LocalSGD
from manent.crypto.samplers.gradients import sampler_error


def example_event(local: LocalSGD, rounds: int, parameters: int) -> Event:
    """What training releases about one example: every step of every round, as if its client took part in all of them.

    | who | what they learn |
    |---|---|
    | every observer | only what is made of noised gradients; none knows which examples were sampled: one event for all |
    | several clients | an example is held by one client, so steps of different clients do not add up |
    | rounds that do not ask a client | not counted as sampling: the server knows the cohort |

    Args:
        local: with privacy and its noise_multiplier.
        rounds: how many the client may take part in; >= 1.
        parameters: p, how many coordinates are trained; >= 1.

    Raises:
        InvalidInput: where training is not private, and for counts below 1.
        Refused: where its noise multiplier is not known.
    """
    if local.privacy is not None and local.privacy.noise_multiplier is None:
        raise Refused("DPSGD has no noise_multiplier yet; declare one, or find it from a budget with `example_noise`.")
    z = 1.0 if local.privacy is None else float(local.privacy.noise_multiplier or 1.0)
    return _event(local, z, rounds, parameters)


def example_noise(local: LocalSGD, rounds: int, parameters: int, budget: PrivacyBudget, accountant: Accountant = "auto") -> float:
    """The smallest noise multiplier with which `example_event` keeps a budget for examples; see `calibrate`.

    Raises:
        InvalidInput: where training is not private, and for counts below 1.
        Refused: for a budget of another privacy unit, and where no noise is enough.
    """
    if budget.privacy_unit != "example":
        raise Refused(
            f"DPSGD protects single examples; the budget is for each {budget.privacy_unit}. Set privacy_unit='example', or clip "
            f"and noise the clients' vectors with layers instead."
        )
    relation = budget.neighboring_relation
    return calibrate(budget.epsilon, budget.delta, lambda z: _event(local, z, rounds, parameters), relation, accountant)


def _event(local: LocalSGD, noise_multiplier: float, rounds: int, parameters: int) -> Event:
    q, steps = local.sampling_probability, local.steps
    if q is None or not isinstance(steps, Integral):
        raise InvalidInput("Only private training has a cost for each example; declare LocalSGD(..., privacy=DPSGD(...)).")
    validate.count("The cost of private training", "rounds", rounds)
    validate.count("The cost of private training", "parameters", parameters)
    step = Sampled(RoundedGaussian(noise_multiplier, sampler_error(parameters)), Poisson(q))
    return Repeated(step, int(steps) * rounds)
