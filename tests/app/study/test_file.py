"""Study files: what they may hold, how they are overridden, and what is said of bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from manent.app.study.file import load_data, load_study
from manent.core.errors import InvalidInput
from manent.engines import Conditions
from tests.app.program import STUDY, write


def test_a_study_file_gives_its_study_data_and_conditions(tmp_path: Path) -> None:
    declared = load_study(write(tmp_path, f"{STUDY}\nconditions = mn.Conditions(stragglers=0.5)\n"))
    assert declared.study.name == "small"
    assert len(declared.data) == 4
    assert declared.conditions == Conditions(stragglers=0.5)
    assert load_data(tmp_path / "study.py").names == declared.data.names


def test_overrides_reach_the_study_and_the_conditions(tmp_path: Path) -> None:
    sets = ["rounds=7", "algorithm.local.lr = 0.5", "study.algorithm.server_lr=2", "conditions.drop_before_upload=0.25"]
    declared = load_study(write(tmp_path), sets)
    assert declared.study.rounds == 7
    assert declared.study.algorithm.local.lr == 0.5  # type: ignore[attr-defined]
    assert declared.study.algorithm.server_lr == 2.0  # type: ignore[attr-defined]
    assert declared.conditions == Conditions(drop_before_upload=0.25)
    assert declared.study.hash != load_study(write(tmp_path)).study.hash


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("round=3", "did you mean rounds"),
        ("algorithm.local.lrr=3", "did you mean algorithm.local.lr"),
        ("conditions.straglers=1", "did you mean conditions.stragglers"),
        ("rounds=many", "rounds expects a whole number; found 'many'"),
        ("rounds=0", "rounds >= 1"),
        ("rounds", "NAME=VALUE"),
        ("=3", "NAME=VALUE"),
        ("conditions.stragglers=2", "0 <= stragglers <= 1"),
    ],
)
def test_a_bad_override_is_named_with_what_would_do(tmp_path: Path, entry: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_study(write(tmp_path), [entry])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n\nprint(1 / 0)\n", ["study.py, line 3", "ZeroDivisionError: division by zero", "in: print(1 / 0)"]),
        ("def inner():\n    return nothing\n\ninner()\n", ["line 2", "NameError", "in: return nothing"]),
        ("import manent as mn\n\nmn.LocalSGD(lr=-1, steps=1)\n", ["line 3", "finite lr >= 0; found -1"]),
        ("x = (\n", ["line 1", "SyntaxError", "never closed"]),
        ("import not_there_at_all\n", ["line 1", "ModuleNotFoundError: No module named 'not_there_at_all'"]),
        ("raise SystemExit\n", ["line 1", "SystemExit"]),
        ("x = 1\n", ["must define 'study', a Study"]),
        ("study = 5\n", ["must define 'study' as a Study; found an int"]),
        (STUDY.replace("study = ", "experiment = "), ["must define 'study'", "It defines 'experiment', a Study: rename it"]),
        (STUDY.replace("data = ", "federation = "), ["must define 'data'", "'federation', a Federation"]),
        (f"{STUDY}\nconditions = 0.5\n", ["'conditions' as a Conditions; found a float"]),
    ],
)
def test_a_bad_study_file_is_said_by_file_line_and_reason(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_study(write(tmp_path, text))
    for part in expected:
        assert part in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_missing_file_names_near_ones(tmp_path: Path) -> None:
    write(tmp_path, name="hospitals.py")
    with pytest.raises(InvalidInput, match=r"Did you mean .*hospitals\.py"):
        load_study(tmp_path / "hospital.py")
    with pytest.raises(InvalidInput, match="is a folder"):
        load_study(tmp_path)


def test_a_study_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_study.py").write_text("ROUNDS = 9\n")
    text = STUDY.replace("rounds=3", "rounds=ROUNDS").replace(
        "import manent", "from beside_the_study import ROUNDS\nimport manent"
    )
    assert load_study(write(tmp_path, text)).study.rounds == 9


CODE = """
class Twice:
    def to_plain(self):
        return {}

def schedule(x):
    return x + 1
"""


def test_the_hash_of_a_studys_own_code_follows_its_text_not_its_place(tmp_path: Path) -> None:
    from manent.core.canonical import code_hash

    def hashed(name: str, text: str, kept: str | None = None) -> str:
        import sys

        load_study(write(tmp_path, text, name), text=kept)
        return code_hash(sys.modules["study_file"].Twice)

    first = hashed("one.py", CODE + STUDY)
    assert hashed("two.py", CODE + STUDY) == first
    assert hashed("two.py", CODE.replace("return {}", "return {'x': 1}") + STUDY) != first
    assert hashed("two.py", "raise SystemExit", kept=CODE + STUDY) == first
