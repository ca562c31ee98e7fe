"""A study as plain data: its canonical form, its hash, and overrides by name."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput
from manent.core.overrides import override, parse, settings
from manent.core.randomness import repeatable
from manent.core.study import Cohort, Study
from manent.core.training import CosineDecay, LocalSGD


@dataclass(frozen=True)
class Guess:
    """An algorithm in name only."""

    local: LocalSGD = field(default_factory=lambda: LocalSGD(lr=0.1, epochs=1))
    server_lr: float = 1.0
    mode: Literal["sum", "mean"] = "mean"
    label: str = ""
    quick: bool = False
    hidden: tuple[int, ...] = (8, 4)
    between: tuple[float, float] | None = None
    tag: str | None = None
    loss: Any = None

    def sums(self, public): ...

    def answer(self, assignment, clients, memory, contexts): ...


@dataclass(frozen=True)
class Half:
    """A layer and a summation in name only."""

    scale: float = 0.5

    def enter(self, form, gathering): ...

    def init(self, occasion): ...

    def bits(self, form, most): ...


def study(**changes: Any) -> Study:
    return replace(Study(algorithm=Guess(), rounds=3, name="a study"), **changes)


# Canonical form and hash


def test_the_plain_form_is_json_and_says_everything():
    told = study(layers=[Half()], algorithm=Guess(loss=np.float32(0.5))).to_plain()
    assert json.loads(canonical(told)) == told
    assert told["rounds"] == 3
    cohort = {"size": None, "sampling_probability": None, "minimum": 1, "maximum": None, "min_separation": None}
    assert told["cohort"] == {"type": "Cohort", **cohort}
    assert told["budget"] is None
    assert told["layers"] == [{"type": f"{__name__}:Half", "scale": 0.5}]
    assert told["algorithm"]["local"]["schedule"] == {"type": "Constant"}
    assert told["algorithm"]["loss"] == 0.5


def test_the_hash_is_frozen():
    # A change of it refuses every interrupted run: it must be deliberate.
    assert canonical(to_plain(LocalSGD(lr=0.1, epochs=(1, 2)))) == (
        b'{"batch_size":null,"epochs":[1,2],"lr":0.1,"max_grad_norm":null,"momentum":0.0,"optimizer":"sgd",'
        b'"privacy":null,"schedule":{"type":"Constant"},"steps":null,"type":"LocalSGD","weight_decay":0.0}'
    )


SCRIPT = """
import sys; sys.path.insert(0, {root!r})
from tests.core.test_study import *
scope = {{}}
exec("keep = lambda x: [y for y in x if y in {{'a', 'b', 'c'}} and (lambda z: z)(y)]", scope)
print(study(algorithm=Guess(loss=scope["keep"])).hash, study(layers=[Half()]).hash)
"""


def test_the_hash_is_the_same_in_every_process(request):
    code = SCRIPT.format(root=str(request.config.rootpath))
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": s}).stdout
        for s in ("1", "2", "3")
    }
    assert len(found) == 1
    assert found.pop().split()[1] == study(layers=[Half()]).hash


def test_the_order_of_fields_and_keys_does_not_matter():
    assert canonical({"a": 1, "b": [2, {"d": 1, "c": 2}]}) == canonical({"b": [2, {"c": 2, "d": 1}], "a": 1})
    assert study(layers=[Half()]).hash == study(layers=(Half(),)).hash
    assert to_plain(Guess(loss=np.arange(6.0)[::2])) == to_plain(Guess(loss=np.array([0.0, 2.0, 4.0])))


def adds(amount: int) -> Any:
    return lambda x: x + amount


def doubles(x: float, factor: float = 2.0) -> float:
    return factor * x


def triples(x: float, factor: float = 3.0) -> float:
    return factor * x


twice, thrice = (lambda x: 2 * x), (lambda x: 3 * x)


def test_whatever_differs_changes_the_hash():
    variants = [
        study(),
        study(rounds=4),
        study(name="another"),
        study(cohort=Cohort(size=2)),
        study(cohort=Cohort(sampling_probability=0.5)),
        study(cohort=Cohort(minimum=2)),
        study(layers=[Half()]),
        study(layers=[Half(), Half()]),
        study(layers=[Half(0.25)]),
        study(summation=Half()),
        *(
            study(algorithm=Guess(**change))
            for change in (
                {"server_lr": 2.0},
                {"server_lr": np.nextafter(1.0, 2.0)},
                {"mode": "sum"},
                {"quick": True},
                {"hidden": (4, 8)},
                {"hidden": (84,)},
                {"between": (0.0, 1.0)},
                {"label": "None"},
                {"tag": "None"},
                {"loss": "x"},
                {"loss": float("inf")},
                {"loss": np.zeros(2)},
                {"loss": np.zeros((2, 1))},
                {"loss": np.zeros(2, np.float32)},
                {"loss": np.ones(2)},
                {"loss": doubles},
                {"loss": triples},
                {"loss": twice},
                {"loss": thrice},
                {"loss": adds(1)},
                {"loss": adds(2)},
                {"loss": Half},
                {"loss": Half()},
                {"loss": len},
                {"local": LocalSGD(lr=0.1, epochs=2)},
                {"local": LocalSGD(lr=0.1, epochs=(1, 1))},
                {"local": LocalSGD(lr=0.1, steps=1)},
                {"local": LocalSGD(lr=0.1, epochs=1, schedule=CosineDecay(3))},
            )
        ),
    ]
    hashes = [variant.hash for variant in variants]
    assert len(set(hashes)) == len(variants)
    assert all(len(h) == 64 for h in hashes)


def test_a_number_from_numpy_is_the_same_number():
    assert study(algorithm=Guess(server_lr=np.float64(0.25))).hash == study(algorithm=Guess(server_lr=0.25)).hash
    assert study(algorithm=Guess(server_lr=np.float64("inf"))).hash == study(algorithm=Guess(server_lr=float("inf"))).hash
    assert study(rounds=np.int64(3)).hash == study().hash


def test_a_class_may_say_itself_what_it_is():
    class Net:
        def to_plain(self) -> dict[str, Any]:
            return {"sizes": (1, np.int64(2)), "weights": np.zeros(2)}

    told = study(algorithm=Guess(loss=Net())).to_plain()["algorithm"]["loss"]
    assert told["type"].endswith("Net")
    assert told["sizes"] == [1, 2]
    assert canonical(told)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, np.array([object()])])
def test_what_is_not_plain_data_is_refused(value):
    with pytest.raises(InvalidInput, match="A study is plain data"):
        study(algorithm=Guess(loss=value)).to_plain()


def test_a_function_that_calls_itself_has_a_hash():
    def down(n: int) -> int:
        return down(n - 1) if n else 0

    assert to_plain(down) == to_plain(down)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(alphabet='aä→"\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_the_canonical_form_loses_nothing(value):
    assert json.loads(canonical(to_plain(value))) == value


# Cohorts and rounds


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Cohort(size=2, sampling_probability=0.5), "not both"),
        (lambda: Cohort(size=0), "size >= 1; found 0"),
        (lambda: Cohort(size=2.5), "size"),
        (lambda: Cohort(sampling_probability=0), "sampling_probability"),
        (lambda: Cohort(sampling_probability=1.1), "found 1.1"),
        (lambda: Cohort(sampling_probability=float("nan")), "found nan"),
        (lambda: Cohort(minimum=0), "minimum >= 1; found 0"),
        (lambda: Cohort(minimum=1.5), "minimum"),
        (lambda: study(rounds=0), "rounds >= 1; found 0"),
        (lambda: study(rounds=2.5), "rounds"),
        (lambda: Cohort(size=5).check(4), "5 clients, but the data have 4"),
        (lambda: Cohort(minimum=5).check(4), "at least 5 answers, but at most 4"),
        (lambda: Cohort(size=3, minimum=4).check(10), "at most 3 clients"),
    ],
)
def test_a_cohort_without_sense_is_refused(build, words):
    with pytest.raises(InvalidInput, match=words):
        build()


@given(st.integers(1, 30), st.data())
def test_a_fixed_size_is_drawn_without_replacement(clients, data):
    size = data.draw(st.integers(1, clients))
    Cohort(size=size).check(clients)
    drawn = Cohort(size=size).draw(clients, repeatable(0, "cohort", size))
    assert len(drawn) == len(set(drawn)) == size
    assert list(drawn) == sorted(drawn)
    assert set(drawn) <= set(range(clients))
    assert Cohort().draw(clients, repeatable(0, "cohort")) == tuple(range(clients))


def test_each_client_is_drawn_as_often_as_declared():
    for cohort in (Cohort(size=3), Cohort(sampling_probability=0.3)):
        drawn = [cohort.draw(10, repeatable(0, "cohort", r)) for r in range(2000)]
        counts = np.bincount(np.concatenate([np.array(d, int) for d in drawn]), minlength=10)
        assert (np.abs(counts - 600) < 5 * np.sqrt(2000 * 0.3 * 0.7)).all()
    sizes = np.array([len(Cohort(sampling_probability=0.3).draw(10, repeatable(1, "cohort", r))) for r in range(2000)])
    assert sizes.min() == 0
    assert abs(sizes.var() - 10 * 0.3 * 0.7) < 0.3  # Poisson sampling: independent draws, so binomial sizes


# Overrides


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("rounds", "10", 10),
        ("name", "fast", "fast"),
        ("name", "12", "12"),
        ("name", "true", "true"),
        ("name", "None", "None"),
        ("name", '"quoted"', "quoted"),
        ("name", "[1, 2", "[1, 2"),
        ("name", "[1, 2]", "[1, 2]"),
        ("cohort.size", "2", 2),
        ("cohort.size", "none", None),
        ("cohort.size", "null", None),
        ("cohort.sampling_probability", "1e-2", 0.01),
        ("algorithm.server_lr", "2", 2.0),
        ("algorithm.mode", "sum", "sum"),
        ("algorithm.quick", "true", True),
        ("algorithm.quick", "False", False),
        ("algorithm.hidden", "[3, 2, 1]", (3, 2, 1)),
        ("algorithm.hidden", "[]", ()),
        ("algorithm.between", "[0, 1.5]", (0.0, 1.5)),
        ("algorithm.between", "none", None),
        ("algorithm.tag", "none", None),
        ("algorithm.tag", "ward 3", "ward 3"),
        ("algorithm.local.lr", "0.5", 0.5),
        ("algorithm.local.epochs", "4", 4),
        ("algorithm.local.epochs", "[2, 4]", (2, 4)),
        ("algorithm.local.optimizer", "adam", "adam"),
        ("layers.1.scale", "0.125", 0.125),
    ],
)
def test_a_field_is_set_from_text(path, text, found):
    before = study(layers=[Half(), Half()])
    after: Any = override(before, path, text)
    node: Any = after
    for part in path.split("."):
        node = node[int(part)] if part.isdigit() else getattr(node, part)
    assert node == found
    assert type(node) is type(found)
    assert before == study(layers=[Half(), Half()])
    assert [k for k in after.to_plain() if after.to_plain()[k] != before.to_plain()[k]] in ([path.split(".")[0]], [])


@pytest.mark.parametrize(
    ("path", "text", "words"),
    [
        ("rounds", "ten", "rounds expects a whole number; found 'ten'"),
        ("rounds", "1.5", "a whole number"),
        ("rounds", "true", "a whole number"),
        ("rounds", "none", "a whole number"),
        ("rounds", "9" * 5000, "a whole number"),
        ("rounds", "0", "rounds >= 1; found 0"),
        ("algorithm.server_lr", "fast", "algorithm.server_lr expects a number; found 'fast'"),
        ("algorithm.server_lr", "9" * 400, "a number"),
        ("algorithm.server_lr", "true", "a number"),
        ("algorithm.mode", "median", "one of 'sum', 'mean'"),
        ("algorithm.quick", "1", "true or false"),
        ("algorithm.hidden", "[1, 2.5]", "a list in brackets .a whole number, ...."),
        ("algorithm.hidden", "3", "in brackets"),
        ("algorithm.between", "[1, 2, 3]", r"brackets \(a number, a number\) or none"),
        ("algorithm.local.epochs", "0", "epochs of at least 1"),
        ("algorithm.local.epochs", "few", "whole number or a list"),
        ("algorithm.local.lr", "-1", "lr >= 0"),
        ("algorithm.local.lr", "NaN", "lr"),
        ("algorithm.local.steps", "3", "either epochs or steps"),
        ("algorithm.local", "3", "LocalSGD.*cannot set"),
        ("cohort.size", "0", "size >= 1"),
        ("layers.0", "3", r"layers.0.NAME=VALUE"),
    ],
)
def test_text_that_does_not_fit_is_refused(path, text, words):
    with pytest.raises(InvalidInput, match=words):
        override(study(layers=[Half()]), path, text)


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("round", "did you mean rounds?"),
        ("algorithm.local.learning", "algorithm.local.lr"),
        ("lr", "algorithm.local.lr"),
        ("algorithm.lr", "algorithm.local.lr"),
        ("algorithm.server_lrr", "algorithm.server_lr"),
        ("local.epochs", "algorithm.local.epochs"),
        ("cohort.sise", "cohort.size"),
        ("layers.1.scale", "layers.0.scale"),
        ("layers.x.scale", "layers.0.scale"),
        ("rounds.more", "rounds"),
        ("cohort.size.more", "cohort.size"),
        ("zzzzzz", "it has: "),
        ("", "it has: "),
        ("algorithm..lr", "algorithm.local.lr"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(path, near):
    with pytest.raises(InvalidInput) as refused:
        override(study(layers=[Half()]), path, "1")
    assert f"no setting {path!r}" in str(refused.value)
    assert near in str(refused.value)


def test_every_setting_that_is_listed_exists():
    listed = settings(study(layers=[Half()], algorithm=Guess(loss=3)))
    assert {"rounds", "name", "cohort.size", "algorithm.local.lr", "algorithm.hidden", "layers.0.scale"} <= set(listed)
    for path in listed:
        assert "no setting" not in answer(path)
        assert "no setting" in answer(f"{path}x")


def answer(path: str) -> str:
    try:
        return str(override(study(layers=[Half()]), path, "["))
    except InvalidInput as refused:
        return str(refused)


@given(st.text(max_size=12), st.sampled_from([int, float, str, bool, int | None, Literal["a", 1], tuple[int, ...], str | None]))
def test_parsing_gives_a_value_of_the_type_or_refuses(text, annotation):
    try:
        value = parse(text, annotation, "field")
    except InvalidInput:
        return
    kinds = {int | None: (int, type(None)), Literal["a", 1]: (str, int), tuple[int, ...]: (tuple,), str | None: (str, type(None))}
    assert type(value) in kinds.get(annotation, (annotation,))


# Parts of a wrong kind


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"algorithm": Guess}, r"an algorithm as algorithm; found Guess, a class. Call it: Guess\(...\)"),
        ({"algorithm": "mean"}, r"an algorithm as algorithm; found 'mean'. Give one, such as FedAvg\("),
        ({"algorithm": None}, "an algorithm as algorithm; found None"),
        ({"algorithm": Half()}, "an algorithm as algorithm; found Half.scale=0.5.. Give"),
        ({"cohort": 3}, r"a cohort as cohort; found 3. Give one, such as Cohort\(size=10\)"),
        ({"cohort": Cohort}, "a cohort as cohort; found Cohort, a class. Call it"),
        ({"cohort": None}, "a cohort as cohort; found None"),
        ({"layers": Half()}, r"layers as a list; found Half\(scale=0.5\). Write layers="),
        ({"layers": None}, "layers as a list; found None"),
        ({"layers": "clip"}, "layers as a list; found 'clip'"),
        ({"layers": [1]}, r"a layer as a member of layers; found 1. Give one, such as Clip\("),
        ({"layers": [Half(), Half]}, "a layer as a member of layers; found Half, a class. Call it"),
        ({"summation": Half}, "a summation or None as summation; found Half, a class"),
        ({"summation": "secagg"}, "a summation or None as summation; found 'secagg'"),
        ({"budget": 3.0}, r"a budget or None as budget; found 3.0. Give one, such as Budget\("),
    ],
)
def test_parts_of_a_wrong_kind_are_refused(changes, why):
    with pytest.raises(InvalidInput, match=f"Study expects {why}"):
        study(**changes)
