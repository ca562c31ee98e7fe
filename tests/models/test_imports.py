"""Importing the models costs no framework."""

from __future__ import annotations

import subprocess
import sys

import pytest

import manent.models


def test_frameworks_are_imported_when_first_used():
    code = "import sys, manent.models; manent.models.LinearModel; assert not {'torch', 'sklearn', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("package", "name", "extra"),
    [("torch", "TorchModel", "torch"), ("sklearn", "SklearnModel", "sklearn"), ("jax", "JaxModel", "jax")],
)
def test_a_missing_framework_says_what_to_install(package, name, extra):
    code = f"""
import sys
sys.modules[{package!r}] = None
import manent.models
from manent.core.errors import MissingExtra
try:
    manent.models.{name}
except MissingExtra as error:
    assert "manent[{extra}]" in str(error)
else:
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_loads():
    for name in manent.models.__all__:
        assert getattr(manent.models, name).__name__ == name
    with pytest.raises(AttributeError):
        manent.models.Nothing
