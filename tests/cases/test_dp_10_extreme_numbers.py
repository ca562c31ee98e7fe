"""Numbers beyond what double precision holds the squares of are refused in words, or bounded: never an error of arithmetic."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent import accounting as ac
from manent.accounting.attacks import true_positives
from manent.core.errors import ManentError

A = "add_or_remove"


def study(*layers):
    algorithm = mn.FedAvg(mn.LogisticModel(13), mn.LocalSGD(lr=0.1, epochs=1), weighting="equal")
    return mn.check(mn.Study(algorithm=algorithm, rounds=2, layers=layers), mn.data.heart_disease())


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: ac.epsilon(ac.training(1e-200, 1), 1e-5, A),
        lambda: ac.epsilon(ac.training(1e200, 1, 0.5), 1e-5, A),
        lambda: ac.epsilon(ac.ZeroConcentrated(0.1), 1e-320, A),
        lambda: ac.epsilon(ac.training(1.0, 10**400), 1e-5, A),
        lambda: ac.epsilon(ac.Repeated(ac.Repeated(ac.Gaussian(1.0), 2**40), 2**40), 1e-5, A),
        lambda: ac.calibrate(1e-300, 1e-5, ac.Gaussian, A),
        lambda: ac.Budget(1.0, 1e-320, "client", A),
        lambda: ac.tau(0.0, 5),
        lambda: ac.rounded_norm(1e200, 5),
        lambda: ac.rounded_norm(float("nan"), 5),
        lambda: study(mn.Clip(1.0), mn.CentralNoise(noise_multiplier=1e-200)),
        lambda: study(mn.Clip(1.0), mn.CentralNoise(noise_multiplier=1e300)),
        lambda: study(mn.Clip(5e-324), mn.CentralNoise(noise_multiplier=1.0)),
        lambda: study(mn.Clip(1e300), mn.CentralNoise(noise_multiplier=1.0)),
        lambda: study(mn.Clip(1.0), mn.Discretize(grid=1e-320), mn.CentralNoise(noise_multiplier=1.0)),
        lambda: study(mn.AdaptiveClip(initial=1e-320), mn.CentralNoise(noise_multiplier=1.0)),
        lambda: mn.DPSGD(clip_norm=1.0, sampling_probability=1e-320),
        lambda: mn.FixedPoint(limit="3"),
        lambda: mn.FixedPoint(step=1e-320),
    ],
)
def test_what_cannot_be_computed_is_refused_in_words(attempt):
    with pytest.raises(ManentError, match=r"[a-z]{3}"):
        attempt()


def test_large_cohorts_and_shares_are_summed_in_time():
    assert ac.tau(2.0, 2**53) < 1
    few = ac.tau(0.5, 1_000)
    assert few < ac.tau(0.5, 10**6) < 10**6


numbers = st.one_of(
    st.sampled_from(
        (0, -1.0, 5e-324, 1e-320, 1e-308, 1e-200, 1e-50, 1e-12, 1e-3, 1.0, 50.0, 1e12, 1e50, 1e200, 1e308, math.inf, math.nan)
    ),
    st.sampled_from(["1", True, None, 10**400, np.float32(2.5), np.float64(0.5), np.int64(3)]),
    st.floats(),
    st.integers(),
)
shares = st.one_of(numbers, st.floats(0, 1))
names = st.sampled_from(["add_or_remove", "replace_one", "zero_out", "another"])
leaf = st.one_of(
    st.tuples(st.just(ac.Gaussian), numbers),
    st.tuples(st.just(ac.RoundedGaussian), numbers, shares),
    st.tuples(st.just(ac.DiscreteGaussian), numbers),
    st.tuples(st.just(ac.DiscreteLaplace), numbers, numbers),
    st.tuples(st.just(ac.DistributedDiscreteGaussian), numbers, numbers, numbers, numbers, numbers),
    st.tuples(st.just(ac.Skellam), numbers, numbers, numbers),
    st.tuples(st.just(ac.MatrixFactorisation), numbers, numbers, numbers, numbers),
    st.tuples(st.just(ac.ZeroConcentrated), numbers),
    st.tuples(st.just(ac.PureRelease), numbers, names),
)
sampling = st.one_of(
    st.tuples(st.just(ac.Poisson), shares),
    st.tuples(st.just(ac.TruncatedPoisson), shares, numbers, numbers),
    st.tuples(st.just(ac.FixedSize), numbers, numbers),
)


@settings(max_examples=400, deadline=None)
@given(
    leaf,
    st.none() | sampling,
    numbers,
    shares,
    names,
    st.sampled_from(["auto", "rdp", "zcdp", "analytic", "pure"]),
    st.booleans(),
)
def test_any_number_gives_a_bound_or_a_refusal(release, drawn, count, delta, relation, accountant, knows):
    try:
        event = release[0](*release[1:])
        if drawn is not None:
            event = ac.Sampled(event, drawn[0](*drawn[1:]))
        event = ac.Repeated(event, count)
        found = ac.epsilon(event, delta, relation, accountant, knows_sample=knows, adaptive=True)
    except ManentError:
        return
    assert isinstance(found.epsilon, float)
    assert found.epsilon >= 0


@settings(max_examples=300, deadline=None)
@given(numbers, shares, shares)
def test_attacks_take_any_number(epsilon, delta, rate):
    try:
        assert 0 <= true_positives(epsilon, delta, rate) <= 1
    except ManentError:
        return


@settings(max_examples=60, deadline=None)
@given(numbers, shares, st.sampled_from(["analytic", "zcdp", "rdp"]), numbers, numbers)
def test_calibration_takes_any_number(target, delta, accountant, tolerance, interval):
    try:
        z = ac.calibrate(target, delta, ac.Gaussian, A, accountant, tolerance=tolerance, interval=interval)
    except ManentError:
        return
    assert ac.epsilon(ac.Gaussian(z), delta, A, accountant).epsilon <= target


@settings(max_examples=100, deadline=None)
@given(st.floats(-50, 50).map(lambda x: min(max(10.0**x, 1e-50), 1e50)), st.floats(-50, -0.01).map(lambda x: max(10.0**x, 1e-50)))
def test_the_exact_gaussian_holds_over_the_whole_range(z, delta):
    """Between the bound of zCDP from above and, from below, what a total shift of 1/z must at least allow."""
    found = ac.epsilon(ac.Gaussian(z), delta, A).epsilon
    assert 0 <= found <= ac.epsilon(ac.Gaussian(z), delta, A, "zcdp").epsilon * (1 + 1e-9)
    if delta < 0.1 and z < 1e3:
        assert found >= 1 / (2 * z**2) * (1 - 1e-9)  # the median loss, which half of all draws exceed


@pytest.mark.parametrize(
    "arguments",
    [
        ("epsilon", "--noise-multiplier", "1e-200", "--rounds", "1", "--delta", "1e-5"),
        ("epsilon", "--noise-multiplier", "1e200", "--rounds", "1", "--delta", "1e-5", "--sampling-probability", "0.5"),
        ("epsilon", "--noise-multiplier", "1", "--rounds", "1" + 400 * "0", "--delta", "1e-5"),
        ("epsilon", "--noise-multiplier", "1", "--rounds", "1", "--delta", "1e-320"),
        ("noise", "--epsilon", "1e-300", "--rounds", "1", "--delta", "1e-5"),
        ("noise", "--epsilon", "nan", "--rounds", "1", "--delta", "1e-5"),
    ],
)
def test_the_command_line_refuses_in_words(arguments):
    ran = subprocess.run([sys.executable, "-m", "manent", *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode not in (0, None)
    assert "Traceback" not in ran.stderr + ran.stdout
    assert "Error" in ran.stderr + ran.stdout
