"""The files that travel with a study: those that it imports from beside it, and those that are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from manent.app.study.code import code_of, pins
from manent.core.errors import InvalidInput


def files(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "my_study.py"


def test_what_is_imported_from_beside_travels_and_what_that_imports(tmp_path: Path) -> None:
    study = files(
        tmp_path,
        my_study="import numpy, network\nfrom manent import Study\n",
        network="def build():\n    from layers import Dense\n    import my_study\n",
        layers="import network\n",
        unused="1",
        json="raise RuntimeError('Python has its own')",
    )
    assert set(code_of(study)) == {"study.py", "network.py", "layers.py"}
    assert code_of(study)["study.py"] == study.read_text()


def test_what_is_named_travels_too(tmp_path: Path) -> None:
    study = files(tmp_path, my_study="import network", network="1")
    (tmp_path / "words.txt").write_text("a b")
    assert set(code_of(study, [tmp_path / "words.txt", tmp_path / "network.py"])) == {"study.py", "network.py", "words.txt"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "network.py").write_text("2")
    with pytest.raises(InvalidInput, match=r"named 'network\.py'"):
        code_of(study, [tmp_path / "other" / "network.py"])
    with pytest.raises(InvalidInput, match="cannot be read as text"):
        code_of(study, [tmp_path / "missing.txt"])


def test_a_package_beside_it_is_refused(tmp_path: Path) -> None:
    study = files(tmp_path, my_study="import parts.network")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    with pytest.raises(InvalidInput, match="has no folders"):
        code_of(study)


def test_pins_are_the_lines_without_comments(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# of the network\nnumpy==2.1.3  # the arrays\n\ntorch==2.13.0\n")
    assert pins(tmp_path / "requirements.txt") == ("numpy==2.1.3", "torch==2.13.0")
