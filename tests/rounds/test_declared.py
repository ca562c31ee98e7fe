"""A study's plain data become the study again: the same hash, the same statement, and nothing that is not built in."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manent as mn
from manent import algorithms, analytics, layers, summation
from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput, ManentError, Refused
from manent.privacy import resolve
from manent.rounds.declared import DeclaredModel, Sites, rebuild, schema_of
from manent.rounds.wire_types import BUILT_IN
from tests.conformance.test_algorithms import ALGORITHMS
from tests.conformance.test_layers import LAYERS
from tests.conformance.test_models import ROWS as MODELS
from tests.privacy.studies import DATA, FEDAVG, LOCAL, MODEL, budget, study

PRIVATE = mn.LocalSGD(lr=0.1, steps=4, batch_size=3, privacy=mn.DPSGD(1.0, sampling_probability=1.0))
STUDIES = {
    "plain": study([]),
    "SecAgg": study([], summation=mn.SecAgg(corrupt=0.2, post_quantum=False)),
    "Plain, named": study([], summation=mn.Plain(), name="Ward 3, \u00fcber alles"),
    "a budget for clients": study([mn.Clip(1), mn.CentralNoise()], budget=budget()),
    "a budget for examples": study([], algorithm=mn.FedAvg(MODEL, PRIVATE), budget=budget(privacy_unit="example", delta=1e-4)),
    "Poisson": study([], cohort=mn.Cohort(sampling_probability=0.5, maximum=15)),
    "a size and a minimum": study(cohort=mn.Cohort(size=10, minimum=3)),
    "whole numbers where real ones may stand": study(algorithm=mn.FedAvg(MODEL, mn.LocalSGD(lr=1, epochs=(1, 3)), server_lr=2)),
    "numbers of numpy": study(algorithm=mn.FedAvg(MODEL, mn.LocalSGD(lr=np.float64(0.1), steps=int(np.int64(3))))),
    "evaluation": study([], algorithm=mn.FedAvg(MODEL, LOCAL, evaluation=mn.Evaluation(2, ("f1", "loss")))),
    "fixed point": study([mn.FixedPoint()], algorithm=mn.FedAvg(MODEL, LOCAL, weighting="equal")),
    **{
        type(schedule).__name__: study(algorithm=mn.FedAvg(MODEL, replace(LOCAL, schedule=schedule)))
        for schedule in (mn.Constant(), mn.ExponentialDecay(0.5), mn.CosineDecay(5), mn.WarmUp(3))
    },
}  # fmt: skip


def over_the_wire(declared: mn.Study) -> Any:
    return json.loads(canonical(declared.to_plain()))


def check_same(declared: mn.Study) -> mn.Study:
    found = rebuild(over_the_wire(declared))
    assert found.hash == declared.hash
    assert found.to_plain() == declared.to_plain()
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_comes_back_with_its_hash_and_its_statement(name):
    found = check_same(STUDIES[name])
    assert found == STUDIES[name]
    sites = Sites(DATA.names, schema_of(json.loads(canonical(to_plain(DATA.schema)))))
    try:
        expected = resolve(STUDIES[name], Sites(DATA.names, DATA.schema)).statement
    except ManentError as error:
        with pytest.raises(type(error), match="."):
            resolve(found, sites)
    else:
        assert resolve(found, sites).statement == expected


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_comes_back(name):
    assert check_same(mn.Study(ALGORITHMS[name])).algorithm == ALGORITHMS[name]


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_comes_back(name):
    assert check_same(mn.Study(FEDAVG, layers=LAYERS[name])).layers == tuple(LAYERS[name])


@pytest.mark.parametrize("name", MODELS)
def test_every_model_comes_back(name):
    pytest.importorskip(MODELS[name].needs)
    model = MODELS[name].make()
    if not to_plain(model).get("type", "").isidentifier():
        pytest.skip("a model of the tests' own")
    found: Any = check_same(mn.Study(mn.FedAvg(model, LOCAL))).algorithm
    assert found.model.layout == model.layout
    assert (found.model.kind, found.model.classes) == (model.kind, model.classes)
    assert found.train_layout == mn.FedAvg(model, LOCAL).train_layout
    assert found.model.init(np.random.default_rng(0)).shape == (model.layout.size,)


@pytest.mark.parametrize(
    ("annotation", "package"),
    [("Algorithm", algorithms), ("Algorithm", analytics), ("Layer", layers), ("Summation", summation)],
)
def test_the_table_knows_everything_that_is_exported(annotation, package):
    method = {"Algorithm": "sums", "Layer": "enter", "Summation": "explain"}[annotation]
    exported = [getattr(package, name) for name in package.__all__]
    wanted = {value for value in exported if isinstance(value, type) and hasattr(value, method)}
    assert wanted
    known = next(classes for kind, classes in BUILT_IN.items() if kind.__name__ == annotation)
    assert wanted <= set(known)


@dataclass(frozen=True)
class Hollow:
    """A layer that says that it clips."""

    norm: float = 1.0
    place = 0

    def enter(self, form, gathering):
        raise AssertionError("a site ran a study's own layer")


def changed(path: str, value: Any, base: mn.Study | None = None) -> Any:
    """The plain data of a study with what is at a dotted path set, or removed where the value is `...`."""
    document = over_the_wire(base or STUDIES["a budget for examples"])
    *way, last = path.split(".")
    node = document
    for part in way:
        node = node[int(part)] if part.isdigit() else node[part]
    key: Any = int(last) if last.isdigit() else last
    if value is ...:
        del node[key]
    else:
        node[key] = value
    return document


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


CLIPPED = STUDIES["a budget for clients"]
WRONG = {
    "no table": (None, "expects a table of type 'Study'"),
    "a list": ([1], "expects a table of type 'Study'"),
    "a number": (3, "expects a table"),
    "empty": ({}, "study expects Study; found None"),
    "an unknown key": (changed("round", 3), "unknown key 'round'; did you mean 'rounds'"),
    "an unknown key deep inside": (changed("algorithm.local.privacy.noise", 1.0), "study.algorithm.local.privacy has an unknown"),
    "a missing key": (changed("cohort.minimum", ...), "study.cohort lacks the key 'minimum'"),
    "a missing type": (changed("algorithm.type", ...), "study.algorithm expects FedAdagrad, FedAdam, FedAvg"),
    "a layer of the study's own": (mn.Study(FEDAVG, layers=[Hollow()]).to_plain(), "of their own manent alone"),
    "an algorithm of the study's own": (changed("algorithm.type", "study_file:FedAvg"), "of their own manent alone"),
    "an algorithm as a layer": (changed("layers.0", over_the_wire(CLIPPED)["algorithm"], CLIPPED), "layers.0 expects .*, Clip"),
    "a summation that is none": (changed("summation", {"type": "Clip", "norm": 1.0, "order": 2}), "expects Plain, SecAgg"),
    "a type that is a number": (changed("algorithm.type", 3), "found 3"),
    "a type that is a list": (changed("cohort.type", ["Cohort"]), "found"),
    "text for a number": (changed("rounds", "3"), "study.rounds expects a whole number; found '3'"),
    "a fraction of a round": (changed("rounds", 2.5), "a whole number; found 2.5"),
    "true for a round": (changed("rounds", True), "a whole number; found True"),
    "true for a norm": (changed("layers.0.norm", True, CLIPPED), "a finite number"),
    "true for an order": (changed("layers.0.order", True, CLIPPED), "1 or 2; found True"),
    "an infinite norm": (changed("layers.0.norm", float("inf"), CLIPPED), "a finite number"),
    "infinity as text": (changed("layers.0.norm", "inf", CLIPPED), "a finite number"),
    "a huge number": (changed("rounds", 10**400), "a whole number"),
    "a huge number for a real one": (changed("algorithm.server_lr", 10**400), "a finite number"),
    "no rounds": (changed("rounds", 0), "rounds >= 1"),
    "too many rounds": (changed("rounds", 10**9), "at most 100,000"),
    "too many steps": (changed("algorithm.local.steps", 10**12), "at most 1,000,000"),
    "too many bins": (mn.Study(mn.Histogram("age", 10**12)).to_plain(), "at most 1,048,576"),
    "another choice": (changed("algorithm.weighting", "by size"), "'examples' or 'equal'"),
    "three bounds": (changed("algorithm.local.steps", [1, 2, 3]), "a whole number or a list"),
    "a table for a number": (changed("rounds", {"type": "Cohort"}), "study.rounds expects no table"),
    "a table for the layers": (changed("layers", {}), "study.layers expects no table"),
    "a layer that is a number": (changed("layers.0", 3, CLIPPED), "a table .Layer.; found 3"),
    "a budget that it reads as another": (changed("budget.epsilon", 8), "study.budget.epsilon is 8, and is read as 8.0"),
    "a noise below zero": (changed("algorithm.local.privacy.noise_multiplier", -1.0), "noise_multiplier > 0"),
    "classes that the model has not": (changed("algorithm.model.features", 0), "features >= 1"),
    "a key that the model has not": (changed("algorithm.model.secret", 1), "study.algorithm.model has 'secret'"),
    "without its classes": (changed("algorithm.model.classes", ...), "lacks the key 'classes'"),
    "too deep": (changed("name", nested(100)), "nested deeper"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused_by_name(name):
    document, words = WRONG[name]
    with pytest.raises(InvalidInput, match=words):
        rebuild(document)


def test_what_a_part_refuses_it_refuses_here_too():
    steps = {"weighting": "equal", "control": "gradient"}
    document = changed("algorithm", {**over_the_wire(STUDIES["a budget for examples"])["algorithm"], **steps, "type": "SCAFFOLD"})
    with pytest.raises(Refused, match="gradient without noise"):
        rebuild(document)


NET = {
    "type": "TorchModel",
    "network": "Sequential(...)",
    "kind": "multiclass",
    "classes": 3,
    "layout": to_plain(MODEL.layout),
    "initial": "seed",
}


def network(**changes: Any) -> Any:
    return changed("algorithm.model", {**copy.deepcopy(NET), **changes})


def layout(*blocks: tuple[str, list[list[int]]], bound: float | None = None) -> Any:
    return {
        "type": "Layout",
        "blocks": [
            {
                "type": "Block",
                "name": name,
                "entries": [{"type": "Entry", "name": f"{name}.{i}", "shape": s} for i, s in enumerate(shapes)],
                "bound": bound,
            }
            for name, shapes in blocks
        ],
    }


def test_a_declared_model_says_what_it_is_and_computes_nothing():
    document = network(layout=layout(("parameters", [[3, 4], [3]]), ("statistics", [[2]])))
    found: Any = rebuild(document).algorithm
    assert isinstance(found.model, DeclaredModel)
    assert (found.parameters, found.model.layout.size) == (15, 17)
    data = mn.Examples(np.zeros((1, 4), np.float32), np.zeros(1, np.int64))
    for call in (
        lambda: found.model.train([], []),
        lambda: found.model.gradient(np.zeros(17), data),
        lambda: found.model.evaluate(np.zeros(17), data),
        lambda: found.model.check(data, "here"),
        lambda: found.model.clipped_gradient_sum(np.zeros(17), data, 1.0),
    ):
        with pytest.raises(InvalidInput, match="TorchModel.*no code"):
            call()
    with pytest.raises(Refused, match="statistics of its batches"):
        resolve(rebuild(document), Sites(DATA.names, DATA.schema))


def test_a_large_declared_model_takes_no_memory():
    document = network(layout=layout(("parameters", [[10**6, 10**4]])))
    document["algorithm"]["local"]["privacy"]["noise_multiplier"], document["budget"] = 2.0, None
    plan = resolve(rebuild(document), Sites(DATA.names, DATA.schema))
    assert plan.stacks["train"].layout.size == 10**10
    assert plan.statement.observers[1].sees.endswith("model (10,000,000,000 numbers)")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": ""}, "expects the type of a model"),
        ({"type": None}, "expects the type of a model"),
        ({"kind": "oracle"}, "'binary' or 'multiclass' or 'regression'"),
        ({"kind": "binary"}, "found 3 classes"),
        ({"kind": "regression", "classes": -1}, "found -1 classes"),
        ({"kind": "regression"}, "found 3 classes"),
        ({"classes": 1}, "found 1 classes"),
        ({"classes": 3.0}, "a whole number"),
        ({"layout": None}, "expects a table"),
        ({"layout": layout(("parameters", [[-3]]))}, "no size is negative"),
        ({"layout": layout(("parameters", [[2**62, 2**62]]))}, "expected 1 to"),
        ({"layout": layout(("parameters", [[0]]))}, "expected 1 to"),
        ({"layout": layout(("weights", [[3]]))}, "'parameters' and perhaps 'statistics'"),
        ({"layout": layout(("parameters", [[3]]), bound=1.0)}, "'parameters'"),
        ({"layout": layout(("parameters", [[3]]), ("parameters", [[3]]))}, "unique block names"),
    ],
)
def test_a_model_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(InvalidInput, match=words):
        rebuild(network(**changes))


SCHEMA = mn.Schema(
    features=(mn.Column("age", "years", 0, 120), mn.Column("sex", codes={0: "female", 1: "male", -1: "unknown"})),
    target=mn.Column("ill", codes={0: "no", 1: "yes"}, missing="drop"),
    shape=(2,),
    classes=2,
    columns=(mn.Column("weight", "kg", 0.5, 300.0, description="as measured"),),
)


def test_a_schema_comes_back():
    assert schema_of(json.loads(canonical(to_plain(SCHEMA)))) == SCHEMA
    assert schema_of(json.loads(canonical(to_plain(mn.Schema(shape=(28, 28), classes=10))))).shape == (28, 28)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("classes", 1, "classes >= 2"),
        ("shape", [3], "needs shape"),
        ("features.0.low", 200, "low <= high"),
        ("features.0.name", "sex", "more than once"),
        ("features.1.codes", {"one": "x"}, "whole numbers and their meaning"),
        ("features.1.codes", {"01": "x"}, "whole numbers and their meaning"),
        ("features.1.codes", {"1": 3}, "whole numbers and their meaning"),
        ("features.1.codes", ["x"], "expects a table"),
        ("features.1.missing", "guess", "'refuse' or 'drop'"),
        ("secret", 1, "unknown key"),
    ],
)
def test_a_schema_that_contradicts_itself_is_refused(path, value, words):
    document = json.loads(canonical(to_plain(SCHEMA)))
    *way, last = path.split(".")
    node = document
    for part in way:
        node = node[int(part)] if part.isdigit() else node[part]
    node[last] = value
    with pytest.raises(InvalidInput, match=words):
        schema_of(document)


def test_sites_are_a_population():
    sites = Sites(("north", "south"), SCHEMA)
    assert (sites.public.clients, sites.public.schema) == (2, SCHEMA)
    with pytest.raises(InvalidInput, match="at least one site"):
        Sites((), SCHEMA)
    with pytest.raises(InvalidInput, match="'north' occurs more than once"):
        Sites(("north", "north"), SCHEMA)


def paths(node: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [inner for key, value in items for inner in ((*way, key), *paths(value, (*way, key)))]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["Clip", "FedAvg", "Budget"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "norm", "order", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)
BASES = [over_the_wire(CLIPPED), over_the_wire(STUDIES["a budget for examples"]), network()]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(range(len(BASES))), st.data(), ANY, st.booleans())
def test_no_change_of_plain_data_gives_a_study_of_other_plain_data(base, data, value, remove):
    document = copy.deepcopy(BASES[base])
    *way, last = data.draw(st.sampled_from(paths(document)))
    node = document
    for part in way:
        node = node[part]
    if remove:
        del node[last]
    else:
        node[last] = value
    try:
        found = rebuild(document)
    except ManentError:
        return
    assert canonical(found.to_plain()) == canonical(document)


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_anything_at_all_is_read_or_refused(value):
    with pytest.raises(InvalidInput):
        rebuild(value)
