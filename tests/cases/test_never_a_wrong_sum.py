"""A sum comes back right, or the study was refused: grids and rings follow from the failure probability of the whole study.

Each test says what it compares against: exact enumerations and convolutions, scipy's laws, Python's integers.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from scipy.stats import skellam as scipy_skellam

import manent as mn
from manent.core.layers import Draws, Form, Gathering, Stage
from manent.crypto import InsecureTestRNG, SystemRandom
from manent.crypto.samplers import laws
from manent.layers import rotation
from manent.layers.noise import reach
from manent.layers.reach import Reach, tail
from manent.privacy.stack import build
from tests.privacy.studies import DATA, spec, stack, study, vectors

RANDOM = SystemRandom()
LAWS = ("gaussian", "discrete_gaussian", "skellam", "laplace")
NOISES = {
    "central": [mn.Clip(1.0), mn.CentralNoise(1.0)],
    "central, laplace": [mn.Clip(1.0, order=1), mn.CentralNoise(1.0, "laplace")],
    "local": [mn.Clip(1.0), mn.LocalNoise(1.0)],
    "local, laplace": [mn.Clip(1.0, order=1), mn.LocalNoise(1.0, "laplace")],
    "shares": [mn.Clip(1.0), mn.DistributedNoise(noise_multiplier=1.0, dropout=0.6)],
    "skellam": [mn.Clip(1.0), mn.DistributedNoise("skellam", 1.0, dropout=0.6)],
}


def totals(made, rows, sums):
    """Whole totals [d'] of sums of the same clients, formed without a modulus; and what comes back of each."""
    state = made.init()
    for _ in range(sums):
        total = made.client(rows, made.sends(state), RANDOM).sum(0)
        if made.noise is not None:
            total, _ = made.noise.server(total, {}, RANDOM)
        back, after = made.stages[1].server(total, {n.split(".", 2)[2]: a for n, a in state.items()}, RANDOM)
        yield total, back
        state = {f"layer.1.{name}": array for name, array in after.items()}


# The tails, against the laws themselves


def mass(law, scale):
    """Mass [2 m + 1] of one draw over -m, ..., m, which leaves out less than 1e-40."""
    most = math.ceil(14 * scale + 60) if law != "laplace" else math.ceil(100 * scale)
    k = np.arange(-most, most + 1)
    if law == "skellam":
        return scipy_skellam.pmf(k, scale**2 / 2, scale**2 / 2)
    if law == "gaussian":
        from scipy.special import ndtr

        near = -np.abs(k)  # differences of the lower tail keep their digits
        return np.where(k == 0, 1 - 2 * ndtr(-0.5 / scale), ndtr((near + 0.5) / scale) - ndtr((near - 0.5) / scale))
    found = np.exp(-np.abs(k) / scale) if law == "laplace" else np.exp(-(k**2) / (2 * scale**2))
    return found / found.sum()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scale", [0.3, 2.0, 7.5])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_no_sum_of_draws_reaches_further_than_its_tail_says(law, scale, count):
    """Beside convolutions of the law, whose terms are positive, so that even tails of e^-36 keep their digits."""
    one = mass(law, scale)
    total = one
    for _ in range(count - 1):
        total = np.convolve(total, one)
    beyond = np.cumsum(total[::-1])[::-1][len(total) // 2 :]  # P(X >= r) for r = 0, 1, ...
    for odds in (1.0, 5.0, 12.0, 36.0):
        bound = tail(law, count, scale, odds)
        assert beyond[math.ceil(bound)] <= math.exp(-odds)
    exact = int(np.argmax(beyond <= math.exp(-36)))
    assert scale < 1 or bound <= 1.3 * exact + 3  # and the bound is not loose either


def test_no_rotated_coordinate_reaches_further_than_its_tail_says():
    """Beside all 2^12 signs of a block, for energy that is spread, concentrated, and in between."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=12)))
    for total in (np.ones(12), np.eye(12)[3], np.arange(12.0), np.random.default_rng(0).normal(size=12)):
        coordinate = signs @ total / math.sqrt(12)
        for odds in (0.5, 1.0, 2.0, 4.0, 7.0):
            assert np.mean(coordinate >= tail("none", 0, 0.0, odds, total @ total / 12)) <= math.exp(-odds)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 100_000), st.floats(1e-4, 0.999), st.integers(1, 10_000))
def test_a_cohort_of_coins_is_hardly_ever_larger_than_what_is_counted_on(clients, chance, rounds):
    made = Reach(Gathering(clients * chance, 1, clients, rounds=rounds), 1, None, 2.0**-40)
    assert rounds * binom.sf(made.clients, clients, chance) <= 2.0**-41
    assert made.clients <= clients


def test_every_part_of_the_study_has_its_share():
    """A million times the sums, coordinates or kinds cost 14 more in the exponent; a failure of 1/2 gains 27."""
    base = Reach(Gathering(10.0, 1, 10, 1.0, noise=Draws("discrete_gaussian", 1, 1.0)), 100, None, 2.0**-40)

    def beyond(made):
        return made.steps(100.0, 100.0) - 10 * 100.0  # the noise alone, of deviation 100

    odds = math.log(8 / 3 * 2 * 100 * 2.0**40)
    assert beyond(base) == pytest.approx(100 * math.sqrt(2 * odds))
    more = math.sqrt(2 * (odds + math.log(1e6))) * 100
    assert beyond(replace(base, size=10**8)) == pytest.approx(more)
    assert beyond(replace(base, gathering=replace(base.gathering, rounds=10**6))) == pytest.approx(more)
    assert beyond(replace(base, gathering=replace(base.gathering, rounds=1000, kinds=1000))) == pytest.approx(more)
    assert beyond(replace(base, failure=0.5)) == pytest.approx(math.sqrt(2 * (odds - math.log(2.0**39))) * 100)


# Sums


@pytest.mark.parametrize("case", ["spread", "one coordinate", "last block alone"])
def test_of_four_hundred_sums_none_wraps(case):
    """A hundred clients that agree, as adversarial as data may be that do not know the signs. It fails with probability 2^-40.

    Four deviations a coordinate, which are 1 in 16,000, would leave about 26 wrong coordinates in 409,600.
    """
    size, clients = (1024, 100) if case != "last block alone" else (5120, 100)
    row = np.zeros((1, size), np.float32)
    row[0, {"spread": slice(None), "one coordinate": slice(3, 4), "last block alone": slice(-1024, None)}[case]] = 1.0
    layers = [mn.Clip(1.0), mn.Discretize(bits=16, rotation=True), mn.DistributedNoise(noise_multiplier=0.2)]
    made = build(spec(size), layers, Gathering(float(clients), 1, clients, rounds=400))
    grid = made.form.grid
    for total, back in totals(made, np.repeat(row, clients, axis=0), 400 if case == "spread" else 20):
        assert np.abs(total).max() < 2**15
        if made.form.layout.size == size:  # else part of the noise is cut off with the padding
            assert np.linalg.norm(back) == pytest.approx(grid * np.linalg.norm(total), rel=1e-9)


@pytest.mark.parametrize("layers", NOISES.values(), ids=list(NOISES))
@pytest.mark.parametrize("grid", [None, 2.0**-9])
def test_noise_of_every_kind_is_within_the_ring(layers, grid):
    """All answer, though 6 of 10 might not; each client adds noise of its own. It fails with probability 2^-40."""
    fitting = mn.Discretize(bits=18, grid=grid)
    made = stack([layers[0], fitting, layers[1]], 2000, 40)
    rows = np.zeros((40, 2000), np.float32)
    rows[:, :2] = 10.0
    for total, back in totals(made, rows, 10):
        np.testing.assert_array_equal(back, total * made.form.grid)
        assert np.abs(total).max() < 2**17


@pytest.mark.parametrize("layers", NOISES.values(), ids=list(NOISES))
def test_noise_layers_tell_what_their_stages_draw(layers):
    made = stack([layers[0], mn.Discretize(), layers[1]], 10, 40)
    stage, told = made.noise, layers[1].draws(40)
    scale = stage.local if hasattr(stage, "local") else stage.scale
    norm = made.form.l1 if "laplace" in str(layers) else made.form.l2
    assert told == Draws(stage.mechanism, told.count, told.share)
    assert told.share * norm == pytest.approx(scale, rel=1e-12)
    assert told.count == (1 if isinstance(layers[1], mn.CentralNoise) else 40)


@settings(max_examples=400, deadline=None)
@example("central", 12289, 140, 18, True, 1)  # blocks of 4,096 after padding to 16,384
@given(
    st.sampled_from(sorted(NOISES)),
    st.integers(1, 10**6),
    st.integers(1, 10**6),
    st.integers(4, 60),
    st.booleans(),
    st.integers(1, 10**5),
)
def test_the_grid_that_bits_allow_is_the_finest_whose_sum_fits(kind, size, clients, bits, turned, rounds):
    """Beside the sum of the largest vectors and six deviations of the noise, which the ring must hold at the very least."""
    clip, noise = NOISES[kind]
    turned = turned and clip.order == 2
    where = Gathering(float(clients), 1, clients, rounds=rounds)
    layers = [clip, mn.Discretize(bits=bits, rotation=turned), noise]
    made, why = None, ""
    try:
        made = build(spec(size), layers, where)
    except mn.Refused as refused:
        why = str(refused)
    if made is None:
        assert any(words in why for words in ("Use a finer grid", "bits cannot hold", "overflow", "only one is certain"))
        return
    form = made.stages[1].form
    told = noise.draws(clients)
    norm = form.l2 if form.l1 is None else form.l1
    spread = 6 * told.share * norm * math.sqrt(told.count)
    block = rotation.block(size)
    assert made.stages[1].reach.block == (block if turned else None)
    assert 2 ** (bits - 1) > (spread if turned else clients * math.floor(form.l2) + spread)
    assert not turned or 2 ** (bits - 1) > min(clients * math.floor(form.l2), 6 * clients / form.grid / math.sqrt(block))
    stage = made.stages[1]
    finer = 1 / (form.grid * 0.99)
    limit = mn.accounting.rounded_norm(finer, stage.reach.size)
    assert stage.reach.steps(1 / form.grid, form.l2) <= 2 ** (bits - 1) - 1
    assert form.grid * 0.99 < 2.0**-26 or stage.reach.steps(finer, limit) > 2 ** (bits - 1) - 1


def test_a_grid_on_which_the_sum_does_not_fit_is_refused_and_the_cure_works():
    declared = [mn.Clip(1.0), mn.Discretize(grid=2.0**-12, bits=16), mn.CentralNoise(1.0)]
    with pytest.raises(mn.Refused, match=r"16 bits cannot hold a sum of 100 vectors.*Give bits=(\d+)") as refused:
        stack(declared, 1000, 100)
    needed = int(str(refused.value).split("Give bits=")[1].split(",")[0])
    stack([declared[0], replace(declared[1], bits=needed), declared[2]], 1000, 100)
    with pytest.raises(mn.Refused, match=f"Give bits={needed}"):
        stack([declared[0], replace(declared[1], bits=needed - 1), declared[2]], 1000, 100)


@pytest.mark.parametrize("noise", [mn.CentralNoise(1.0), mn.LocalNoise(1.0)])
def test_a_cohort_that_may_be_larger_than_expected_fits_too(noise):
    """Of 10,000 clients 100 are expected; up to 200 are counted on, and all of them where nobody draws."""
    layers = [mn.Clip(1.0), mn.Discretize(bits=24), noise]
    grids = [
        build(spec(10), layers, Gathering(expected, 1, most)).form.grid
        for expected, most in ((100.0, 100), (100.0, 10_000), (10_000.0, 10_000))
    ]
    assert 1.5 * grids[0] < grids[1] < 2.2 * grids[0]
    assert grids[2] > 40 * grids[0]


def test_signs_are_drawn_for_each_sum_where_a_modulus_relies_on_them():
    made = stack([mn.Clip(1.0), mn.Discretize(bits=20, rotation=True)], 9)
    rows, state, seeds = vectors(3, 9, scale=0.1), made.init(), []
    for _ in range(3):
        sent = made.sends(state)
        assert all(array.dtype == np.float32 for array in sent.values())
        back, state = made.server(made.client(rows, sent, RANDOM).sum(0), state, RANDOM)
        np.testing.assert_allclose(back, rows.sum(0), atol=20 * made.form.grid)
        seeds.append(tuple(sent["layer.0.seed" if "layer.0.seed" in sent else "layer.1.seed"]))
    assert len(set(seeds)) == 3  # equal with probability 2^-127
    for free in (mn.Discretize(rotation=True), mn.Discretize(bits=20)):
        assert stack([mn.Clip(1.0), free], 9).init() == {}  # noise that is correlated between rounds needs one rotation


@pytest.mark.parametrize("seed", [None, [0.0] * 7, [-1.0] * 8, [2.0**16] * 8, [0.5] * 8, [math.nan] * 8, [math.inf] * 8])
def test_a_seed_that_is_none_is_refused_in_words(seed):
    made = stack([mn.Clip(1.0), mn.Discretize(bits=20, rotation=True)], 9)
    sent = {} if seed is None else {"layer.1.seed": np.array(seed, np.float32)}
    with pytest.raises(mn.InvalidInput, match="seed of 8 whole numbers"):
        made.client(vectors(1, 9), sent, RANDOM)


@pytest.mark.parametrize("failure", [0, 1, -0.1, 2.0**-65, math.nan, "never", True, None])
def test_what_is_no_failure_probability_is_refused(failure):
    with pytest.raises(mn.InvalidInput, match="Discretize expects .*failure"):
        mn.Discretize(bits=20, failure=failure)


def test_the_statement_tells_the_probability_and_only_where_there_is_one():
    def told(*layers, **changes):
        return str(mn.check(study([mn.Clip(0.5), *layers], **changes), DATA))

    shares = mn.DistributedNoise(noise_multiplier=1.0)
    assert "in the whole study is at most 2^-40" in told(mn.Discretize(bits=20, rotation=True), shares)
    assert "at most 2^-20" in told(mn.Discretize(bits=20, failure=2.0**-20), shares)
    for certain in ([mn.Discretize(bits=20)], [mn.Discretize(), shares], [shares]):
        assert "wraps around" not in told(*certain)
    masked = mn.SecAgg(modelled=True)
    assert "which hold every sum" in told(shares, summation=masked)
    assert "which hold every sum" not in told(mn.Discretize(bits=20), shares, summation=masked)


@pytest.mark.parametrize("norm", [1e-50, 1.0, 1e50])
@pytest.mark.parametrize("z", [1e-50, 1e-9, 1.0, 1e9, 1e50])
@pytest.mark.parametrize(
    "changes",
    [{"bits": 4}, {"bits": 60}, {"bits": 20, "rotation": True}, {"bits": 20, "grid": 1e-50}, {"bits": 20, "grid": 1e50}],
)
def test_extreme_numbers_are_refused_in_words(norm, z, changes):
    """Nothing comes out but a stack, or an error of the project's own."""
    for clip, noise in NOISES.values():
        layers = [replace(clip, norm=norm), mn.Discretize(**changes), replace(noise, noise_multiplier=z)]
        for trial, most in itertools.product((False, True), (1, 10**9)):
            with contextlib.suppress(mn.ManentError):
                build(spec(10), layers, Gathering(1.0, 1, most, rounds=10**6), trial)
    for bad in (5e-324, 9e-51, 1.1e50, 1.7e308):
        with pytest.raises(mn.InvalidInput, match="Clip expects 1e-50 <= norm <= 1e.50"):
            mn.Clip(bad)
        with pytest.raises(mn.InvalidInput, match="AdaptiveClip expects 1e-50 <= initial <= 1e.50"):
            mn.AdaptiveClip(initial=bad)
        with pytest.raises(mn.InvalidInput, match="Discretize expects 1e-50 <= grid <= 1e.50"):
            mn.Discretize(bits=20, grid=bad)
        with pytest.raises(mn.InvalidInput, match="CentralNoise expects 1e-50 <= noise_multiplier <= 1e.50"):
            mn.CentralNoise(bad)
    for bad in (9e-31, 1.1e30):
        with pytest.raises(mn.InvalidInput, match="AdaptiveClip expects initial from"):
            mn.AdaptiveClip(initial=bad)


# Noise and bounds of one's own


@dataclass(frozen=True)
class OwnNoise:
    """A noise layer that does not tell its law."""

    noise_multiplier: float = 1.0
    place: ClassVar[str] = "noise"

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        return mn.CentralNoise(1.0).enter(form, gathering)


def test_noise_of_an_unknown_law_is_refused_with_bits_and_welcome_without():
    with pytest.raises(mn.Refused, match="give the layer `draws`"):
        stack([mn.Clip(1.0), mn.Discretize(bits=20), OwnNoise()])
    assert stack([mn.Clip(1.0), mn.Discretize(), OwnNoise()]).noise is not None


@dataclass(frozen=True)
class Whole:
    """A layer of one's own that gives whole numbers, with these bounds."""

    bounds: tuple[tuple[str, float], ...] = ()
    place: ClassVar[str] = "grid"

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        return Stage(Form(form.layout, 1.0, **dict(self.bounds)))


@pytest.mark.parametrize("summation", [mn.Plain(), mn.SecAgg(modelled=True)])
def test_whole_numbers_that_nothing_bounds_are_refused(summation):
    with pytest.raises(mn.Refused, match="bound"):
        mn.check(study([Whole()], summation=summation), DATA)
    for name in ("largest", "l2", "l1"):
        mn.check(study([Whole(((name, 1000.0),))], summation=summation), DATA)
        with pytest.raises(mn.Refused, match="overflow"):
            mn.check(study([Whole(((name, 2.0**60),))], summation=summation), DATA)


@dataclass(frozen=True)
class Breaks:
    """A layer of one's own that gives what is not finite."""

    number: float

    def enter(self, form: Form, gathering: Gathering) -> Stage:
        return BreaksStage(form, self.number)


@dataclass(frozen=True)
class BreaksStage(Stage):
    number: float

    def client(self, vectors, sent, random):
        rows = np.array(vectors, np.float64)
        rows[0, 3] = self.number
        return rows


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "layer",
    [mn.Discretize(), mn.Discretize(grid=0.01), mn.Discretize(bits=20, rotation=True), mn.Discretize(rounding="stochastic")],
)
def test_what_is_not_finite_behind_the_clip_becomes_zeros_without_a_warning(layer, number):
    made = stack([mn.Clip(1.0), Breaks(number), layer], 9)
    with np.errstate(all="raise"):
        out = made.client(vectors(2, 9), made.sends(made.init()), RANDOM)
    assert not out[0].any()
    assert out[1].any()


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan, math.inf])
def test_a_clip_norm_that_is_none_is_refused_in_words(norm):
    made = stack([mn.AdaptiveClip()], 9)
    with pytest.raises(mn.InvalidInput, match="norm above 0"):
        made.client(vectors(1, 9), {"layer.0.norm": np.array([norm], np.float32)}, RANDOM)


# What one client sends


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(LAWS), st.floats(-4, 25))
def test_no_draw_is_beyond_what_an_upload_may_hold(law, log_scale):
    """So an honest client is never refused, and a ring without `bits` never wraps: the samplers keep no integer further out."""
    scale = 2.0**log_scale
    if law == "skellam":
        low, high = laws.Poisson(scale**2 / 2).support
        furthest = high - low
    else:
        kind = {"gaussian": laws.RoundedGaussian, "discrete_gaussian": laws.DiscreteGaussian, "laplace": laws.DiscreteLaplace}[
            law
        ]
        furthest = kind(scale).support[1]
    assert furthest <= reach(scale, law)


@settings(max_examples=200, deadline=None)
@given(st.floats(2.0**-30, 2.0**30), st.floats(1.0, 2.0**52), st.floats(-1, 1), st.integers(0, 3))
def test_fixed_point_stays_within_what_it_declares(step, steps, where, nudges):
    limit = step * steps
    if not 1 <= limit / step <= 2.0**52:
        return
    number = np.float64(limit * where)
    for _ in range(nudges):
        number = np.nextafter(number, limit)
    stage = mn.FixedPoint(step, limit).enter(Form(spec(1).layout), Gathering(1.0, 1, 1))
    sent = stage.client(np.array([[number]]), {}, RANDOM)
    assert abs(int(sent[0, 0])) <= stage.form.reach
    assert abs(int(stage.client(np.array([[limit]]), {}, RANDOM)[0, 0])) <= stage.form.reach


@given(st.integers(0, 2**60), st.integers(0, 2**60))
def test_what_a_form_reaches_is_never_less_than_its_parts(largest, spread):
    form = Form(spec(1).layout, 1.0, largest=largest, spread=spread)
    assert form.reach >= largest + spread  # also where float64 would round the sum down
    assert replace(form, spread=1e300).reach == 1e300


def test_a_test_source_repeats_signs_and_sums():
    made = stack([mn.Clip(1.0), mn.Discretize(bits=20, rotation=True), mn.CentralNoise(1.0)], 9)

    def run():
        random, state, found = InsecureTestRNG(1), made.init(), []
        for _ in range(3):
            back, state = made.server(made.client(vectors(2, 9), made.sends(state), random).sum(0), state, random)
            found.append(back)
        return found

    np.testing.assert_array_equal(run(), run())


def test_the_statement_tells_what_a_sparse_graph_risks_and_a_complete_one_does_not():
    form = mn.FixedPoint().enter(Form(spec(4).layout), Gathering(1000.0, 10, 1000)).form
    said = {clients: " ".join(mn.SecAgg().explain(form, clients, 10)) for clients in (100, 1000)}
    assert "at most 2^-40 in each sum" in said[1000]
    assert "never wrong, with 2^-30" in said[1000]
    assert "unlucky" not in said[100]
