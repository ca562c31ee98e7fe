"""What has no honest statement is refused, with the cure; and what is stated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import binom

import manent as mn
from manent.accounting import epsilon
from manent.accounting.events import FixedSize, Poisson, Repeated, RoundedGaussian, Sampled, TruncatedPoisson
from manent.core.layers import Stage
from manent.core.observers import Sight
from manent.core.protocols import SumSpec
from manent.core.vectors import Layout, scalar
from manent.crypto import InsecureTestRNG
from manent.privacy import resolve
from manent.privacy.stack import build
from tests.privacy.studies import CENTRAL, DATA, FEDAVG, LOCAL, MODEL, budget, study

CLIP, NOISE = CENTRAL
HIGH = budget(1000.0)


@dataclass(frozen=True)
class Anything:
    """A layer of which nothing is known."""

    def enter(self, form, gathering):
        return Stage(replace(form, l1=None, l2=None, largest=None))


@dataclass(frozen=True)
class FloatNoise:
    """Noise of one's own, in floating point."""

    noise_multiplier: float = 1.0
    place: ClassVar[str] = "noise"

    def enter(self, form, gathering):
        return Stage(replace(form, noise="FloatNoise"))


@dataclass(frozen=True)
class Hidden:
    """A summation that shows totals alone, in name only."""

    output: str = "sum"

    def seen_by(self, observer):
        return Sight("the sum alone" if "server" in observer else "nothing but what is released", True)

    together = True

    def minimum(self, most):
        return 1

    def init(self, occasion):
        return mn.Plain().init(occasion)

    def bits(self, form, most):
        return mn.Plain().bits(form, most)

    def explain(self, form, most, minimum):
        return ()


@dataclass(frozen=True)
class Told(Hidden):
    """Nothing is hidden from the server, and everyone who takes part learns who else does."""

    def seen_by(self, observer):
        if "server" in observer:
            return Sight("every client's vector", True)
        return Sight("nothing but what is released", observer != "public")


REFUSED = {
    "a budget without noise": (study([CLIP], budget=HIGH), "no layer adds noise"),
    "a budget without layers": (study([], budget=HIGH), "no layer adds noise"),
    "noise without a bound": (study([NOISE]), r"Put Clip\(norm\)"),
    "noise before the clip": (study([NOISE, CLIP]), "Expected Clip, CentralNoise; found CentralNoise, Clip"),
    "whole numbers before the clip": (study([mn.Discretize(), CLIP, NOISE]), "Expected Clip, Discretize, CentralNoise"),
    "two clips": (study([CLIP, mn.AdaptiveClip(), NOISE]), "keep one"),
    "two noises": (study([CLIP, NOISE, mn.LocalNoise(1.0)]), "keep one"),
    "a layer behind the noise": (study([CLIP, NOISE, Anything()]), "ends the layers"),
    "an unknown layer behind the clip": (study([CLIP, Anything(), NOISE]), r"Put Clip\(norm\)"),
    "weights": (study(algorithm=mn.FedAvg(MODEL, LOCAL)), "weighting='equal'"),
    "weights under a clip alone": (study([CLIP], algorithm=mn.FedAvg(MODEL, LOCAL)), "weighting='equal'"),
    "metrics of the clients": (
        study(algorithm=mn.FedAvg(MODEL, LOCAL, weighting="equal", evaluation=mn.Evaluation())),
        "run.probe",
    ),
    "numbers of steps": (study(algorithm=mn.FedNova(MODEL, LOCAL, weighting="equal")), "cannot be clipped"),
    "a query of its own unit": (study(algorithm=mn.Mean("age"), rounds=1), "cannot be clipped"),
    "more than the budget": (study(budget=budget(0.1)), "Leave noise_multiplier out"),
    "another unit": (study(budget=budget(privacy_unit="example")), "privacy_unit='client'"),
    "a minimum that tells the size of a Poisson cohort": (
        study(cohort=mn.Cohort(sampling_probability=0.5, minimum=2)),
        "Leave minimum out",
    ),
    "shares in a Poisson cohort": (
        study([CLIP, mn.DistributedNoise(noise_multiplier=1.0)], cohort=mn.Cohort(sampling_probability=0.5)),
        r"Cohort\(size=",
    ),
    "a fixed size under adding or removing": (
        study([CLIP, mn.CentralNoise()], cohort=mn.Cohort(size=5), budget=HIGH),
        "replace_one",
    ),
    "noise in floating point": (study([CLIP, FloatNoise()]), "noise that is accounted; .* Use CentralNoise"),
    "leaving out coordinates, as if that were noise": (study([Anything()], budget=HIGH), "no layer adds noise"),
    "a summation that forms no sum": (study(summation=Hidden("location")), "forms none"),
}


@pytest.mark.parametrize(("declared", "why"), REFUSED.values(), ids=list(REFUSED))
def test_a_study_without_an_honest_statement_is_refused_with_the_cure(declared, why):
    if isinstance(declared.algorithm, mn.Mean):
        column = mn.Column("age", low=0, high=9)
        examples = mn.Examples(np.zeros((2, 4), np.float32), np.zeros(2, np.int64), {"age": np.ones(2)})
        data = mn.Federation((mn.Client("one", examples),), mn.Schema(shape=(4,), classes=3, columns=(column,)))
    else:
        data = DATA
    with pytest.raises(mn.Refused, match=why):
        mn.check(declared, data)


@dataclass(frozen=True)
class Misplaced(Anything):
    place: ClassVar[int] = 3


def test_a_place_that_is_none_is_refused():
    with pytest.raises(
        mn.InvalidInput, match="Misplaced expects place as one of 'clip', 'compression', 'grid', 'noise'; found 3"
    ):
        mn.check(study([CLIP, Misplaced()]), DATA)


@dataclass(frozen=True)
class NoStage:
    returned: object = None

    def enter(self, form, gathering):
        return self.returned


@pytest.mark.parametrize("returned", [None, 3, Stage, (Stage, 1)], ids=repr)
def test_a_layer_that_returns_no_stage_is_refused(returned):
    with pytest.raises(mn.InvalidInput, match=r"NoStage.enter must return a Stage .*; found .* Return Stage\(form\)"):
        mn.check(study([NoStage(returned)]), DATA)


def test_the_order_is_told_of_the_layers_as_they_were_written():
    with pytest.raises(mn.Refused) as caught:
        mn.check(study([NOISE, CLIP]), DATA)
    assert str(caught.value) == ("The layers stand in a wrong order. Expected Clip, CentralNoise; found CentralNoise, Clip.")


@pytest.mark.parametrize("ask", [mn.check, mn.simulate])
def test_arguments_of_a_wrong_kind_are_refused(ask):
    declared = study([])
    for data, why in {
        "data": "expects a federation as data; found 'data'",
        None: "expects a federation as data; found None",
        mn.data.heart_disease: r"Expected a federation as data; found the function heart_disease. Call it: heart_disease\(\)",
        mn.Federation: r"found Federation, a class. Call it",
    }.items():
        with pytest.raises(mn.InvalidInput, match=why):
            ask(declared, data)
    with pytest.raises(mn.InvalidInput, match="The study comes first, then the data; found a study as the data"):
        ask(DATA, declared)
    for wrong, why in ((FEDAVG, "a study as study; found FedAvg"), (mn.Study, "found Study, a class"), (None, "found None")):
        with pytest.raises(mn.InvalidInput, match=why):
            ask(wrong, DATA)


@pytest.mark.parametrize("unit", ["client", "example"])
@pytest.mark.parametrize("layers", [[], [CLIP], [CLIP, NOISE], [mn.LocalNoise(1.0)]], ids=repr)
def test_a_query_says_at_once_that_it_takes_no_noise_yet(layers, unit):
    data = mn.data.heart_disease()
    wanted = mn.Study(mn.Mean("age"), layers=layers, budget=budget(privacy_unit=unit))
    with pytest.raises(mn.Refused, match="Noise cannot be added to Mean yet: .* Leave layers and budget out.$"):
        mn.check(wanted, data)
    assert mn.check(mn.Study(mn.Mean("age")), data)


def test_an_algorithm_whose_sums_cannot_be_clipped_says_so_at_once():
    fednova = mn.FedNova(MODEL, LOCAL, weighting="equal")
    for changes in ({"layers": [], "budget": HIGH}, {"layers": [CLIP]}, {"layers": [CLIP, NOISE], "budget": HIGH}):
        with pytest.raises(mn.Refused, match="Noise cannot be added to FedNova yet: .* such as FedAvg"):
            mn.check(study(algorithm=fednova, **changes), DATA)


def test_a_delta_that_gives_away_clients_is_refused():
    with pytest.raises(mn.InvalidInput, match="delta"):
        mn.check(study(budget=budget(delta=0.05)), DATA)


def test_sums_that_could_overflow_are_refused():
    layout = Layout((scalar("x"),))
    from manent.core.layers import Gathering

    with pytest.raises(mn.Refused, match="overflow"):
        build(SumSpec("x", layout, "x", scalable=True), [CLIP, mn.LocalNoise(2.0**20)], Gathering(1e6, 1, 10**6))


def observers(declared, data=DATA):
    return {observer.name: observer for observer in mn.check(declared, data).observers}


def test_central_noise_protects_from_all_but_the_server():
    found = observers(study())
    assert found["server"].epsilon is None
    assert "it is trusted" in found["server"].why
    # Three releases of multiplier one are one of 3^-1/2.
    expected = epsilon(Repeated(RoundedGaussian(1.0), 3), found["public"].delta, "add_or_remove").epsilon
    assert found["public"].epsilon == found["clients"].epsilon == pytest.approx(expected)
    assert found["public"].delta == 1e-6


def test_sampling_amplifies_for_those_who_do_not_know_the_sample_only():
    cohort = mn.Cohort(sampling_probability=0.05)
    central, everyone = observers(study(cohort=cohort)), observers(study())
    assert central["public"].epsilon == central["clients"].epsilon < 0.7 * everyone["public"].epsilon
    assert any("Poisson" in line for line in central["public"].assumptions)
    # Under a summation that tells those who take part who else does, they know the sample; the public does not.
    told = observers(study(cohort=mn.Cohort(sampling_probability=0.05), summation=Told()))
    assert told["clients"].epsilon == pytest.approx(everyone["clients"].epsilon)
    assert told["public"].epsilon == central["public"].epsilon


def test_a_poisson_sample_of_local_noise_amplifies_for_nobody():
    """The noise in a total tells how many were drawn."""
    sampled = observers(study([CLIP, mn.LocalNoise(3.0)], cohort=mn.Cohort(sampling_probability=0.05)))
    everyone = observers(study([CLIP, mn.LocalNoise(3.0)]))
    assert {one.epsilon for one in sampled.values()} == {everyone["server"].epsilon}
    fixed = observers(study([CLIP, mn.LocalNoise(8.0)], cohort=mn.Cohort(size=2)))
    assert fixed["public"].epsilon < fixed["clients"].epsilon < fixed["server"].epsilon


def test_local_noise_is_stated_for_the_whole_vector_and_all_rounds():
    """Neither for a coordinate nor for a round: one client's vectors, all of them, at the server."""
    found = observers(study([CLIP, mn.LocalNoise(3.0)], rounds=7))["server"]
    assert found.epsilon == pytest.approx(epsilon(Repeated(RoundedGaussian(3.0), 7), found.delta, "add_or_remove").epsilon)
    laplace = observers(study([mn.Clip(1.0, order=1), mn.LocalNoise(4.0, "laplace")], rounds=2))["server"]
    assert 0.3 < laplace.epsilon <= 2 / 4.0


def test_a_cohort_that_nobody_drew_in_secret_amplifies_nothing():
    for cohort in (mn.Cohort(), mn.Cohort(minimum=3), mn.Cohort(size=20)):
        assert resolve(study(cohort=cohort), DATA).privacy.event.event == resolve(study(), DATA).privacy.event.event


def test_the_statement_says_what_it_takes_for_granted_and_what_not():
    text = str(mn.check(study(), DATA))
    for words in (
        "one that does not follow the protocol is not bounded",
        "Settings that were chosen by runs on the same data",
        "must not depend on its data; no round is closed early",
        "The server is trusted to send every client the same",
    ):
        assert words in text


def test_shares_protect_from_the_server_where_it_sees_totals_alone():
    layers = [CLIP, mn.DistributedNoise(noise_multiplier=2.0)]
    plain, hidden = observers(study(layers)), observers(study(layers, summation=Hidden()))
    assert plain["server"].epsilon is None
    assert "one share of the noise only" in plain["server"].why
    assert hidden["server"].epsilon == hidden["public"].epsilon == plain["public"].epsilon
    assert "Rényi" in hidden["server"].accountant


def test_events_say_what_runs():
    def event(cohort, observer="public"):
        return resolve(study(cohort=cohort), DATA).privacy.events[observer]

    release = RoundedGaussian(1.0, event(mn.Cohort()).event.sampler_error)
    assert 0 < release.sampler_error < 1e-40
    assert event(mn.Cohort()) == Repeated(release, 3)
    assert event(mn.Cohort(sampling_probability=0.5)) == Repeated(Sampled(release, Poisson(0.5)), 3)
    truncated, cut = TruncatedPoisson(0.5, 15, 20), mn.Cohort(sampling_probability=0.5, maximum=15)
    assert event(cut) == Repeated(Sampled(release, truncated), 3)
    assert event(cut, "clients") == Repeated(release, 3)  # one who was left out knows that others were drawn
    assert event(mn.Cohort(size=5)) == Repeated(Sampled(release, FixedSize(5, 20)), 3)
    assert event(mn.Cohort(size=5), "clients") == Repeated(Sampled(release, FixedSize(5, 19)), 3)
    rare = binom.sf(12, 21, 0.05)  # of a cut, with one client more
    loosened = RoundedGaussian(1.0, release.sampler_error + rare)
    for observer in ("public", "clients"):
        found = event(mn.Cohort(sampling_probability=0.05, maximum=12), observer)
        assert found == Repeated(Sampled(loosened, Poisson(0.05)), 3)
    shares = study([CLIP, mn.DistributedNoise(noise_multiplier=1.0)], cohort=mn.Cohort(size=5))
    assert not isinstance(resolve(shares, DATA).privacy.event.event, Sampled)


def test_the_noise_is_found_from_the_budget_and_within_it():
    for layers in ([CLIP, mn.CentralNoise()], [CLIP, mn.LocalNoise()], [CLIP, mn.DistributedNoise()]):
        plan = resolve(study(layers, budget=budget(4.0, neighboring_relation="zero_out")), DATA)
        found = [o.epsilon for o in plan.statement.observers if o.epsilon is not None]
        assert max(found) == pytest.approx(4.0, rel=1e-3)
        assert max(found) <= 4.0
    more = resolve(study([CLIP, mn.CentralNoise()], rounds=12, budget=budget(4.0)), DATA)
    less = resolve(study([CLIP, mn.CentralNoise()], rounds=3, budget=budget(4.0)), DATA)
    assert more.privacy.noise_multiplier == pytest.approx(2 * less.privacy.noise_multiplier, rel=1e-3)


def test_replacing_a_client_needs_twice_the_noise():
    both = [
        resolve(study([CLIP, mn.CentralNoise()], budget=budget(4.0, neighboring_relation=r)), DATA).privacy.noise_multiplier
        for r in ("add_or_remove", "replace_one")
    ]
    assert both[1] == pytest.approx(2 * both[0], rel=1e-3)


def test_scaffold_has_its_control_inside_the_one_norm():
    declared = study(algorithm=mn.SCAFFOLD(MODEL, LOCAL))
    made = resolve(declared, DATA).stacks["train"]
    row = np.full((1, 30), 3.0, np.float32)
    out = made.client(row, {}, InsecureTestRNG(0))[0] * made.form.grid
    assert np.linalg.norm(out) == pytest.approx(0.5, rel=1e-5)
    assert np.linalg.norm(out[:15]) == pytest.approx(np.linalg.norm(out[15:]))


def test_the_statement_reads_well_and_is_plain():
    declared = mn.check(study([mn.AdaptiveClip(count_stddev=5.0), mn.CentralNoise(0.3)]), DATA)
    text = str(declared)
    for words in (
        "Discretize (inserted)",
        "no meaningful protection",
        "within_clip 1",
        "Taken for granted",
        "divisor of totals is 20",
        "times the clip norm of the round",
    ):
        assert words in text
    assert declared.to_plain()["protection"]["noise_multiplier"] == 0.3
    assert "if deployed" in str(declared.simulated())
    assert "epsilon" not in str(mn.check(study([], algorithm=FEDAVG), DATA))


def test_under_an_insecure_source_there_is_no_epsilon():
    run = mn.simulate(study(rounds=1), DATA, workers=0, random=InsecureTestRNG(1))
    assert all(observer.epsilon is None for observer in run.statement.observers)
    assert run.statement.epsilon_is == "none"
    assert "InsecureTestRNG" in str(run.statement)
    with pytest.raises(mn.InvalidInput, match="workers=0"):
        mn.simulate(study(rounds=1), DATA, random=InsecureTestRNG(1))
