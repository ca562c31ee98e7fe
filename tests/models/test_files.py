"""Files of weights: whole, by name, and refused where they do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.models import FittedModel, LinearModel, LogisticModel, SoftmaxModel, load_model
from manent.models.files import load, save

MODEL = SoftmaxModel(4, 3)
GOOD = {"weight": np.ones((3, 4), np.float32), "bias": np.zeros(3, np.float32)}
BAD = {
    "missing": ({"weight": GOOD["weight"]}, "'bias' of shape"),
    "unknown": ({**GOOD, "extra": np.zeros(1, np.float32)}, "'extra'"),
    "shape": ({**GOOD, "weight": np.ones((4, 3), np.float32)}, r"'weight' has shape \(4, 3\)"),
    "NaN": ({**GOOD, "bias": np.array([0, np.nan, 0], np.float32)}, "'bias' holds NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_does_not_fit_names_the_tensor(name, tmp_path):
    tensors, word = BAD[name]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInput, match=word):
        load_model(tmp_path / "model.safetensors", MODEL)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\xff" * 64, b"\x80\x04}q\x00."])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(InvalidInput, match="safetensors"):
        load(tmp_path / "model", MODEL.layout)


def test_a_file_that_is_not_there_is_an_error_of_ours(tmp_path):
    with pytest.raises(InvalidInput, match="Cannot read"):
        load(tmp_path / "none", MODEL.layout)


def test_nothing_is_written_that_could_not_be_read(tmp_path):
    with pytest.raises(InvalidInput, match="'bias'"):
        save(tmp_path / "model", MODEL.layout, np.array([0] * 14 + [np.nan], np.float32))
    with pytest.raises(InvalidInput, match="15"):
        save(tmp_path / "model", MODEL.layout, np.zeros(14, np.float32))
    assert list(tmp_path.iterdir()) == []


def test_a_fitted_model_answers():
    binary = FittedModel(LogisticModel(1), np.array([2, -1], np.float32))
    x, y = np.array([[0], [1]], np.float32), np.array([0, 1])
    np.testing.assert_array_equal(binary.predict(x), [0, 1])
    expected = 1 / (1 + np.exp([1, -1]))
    np.testing.assert_allclose(binary.probabilities(x), np.column_stack([1 - expected, expected]), rtol=1e-6)
    found = binary.evaluate(Examples(x, y))
    assert set(found) == {"accuracy", "loss", "f1", "auc"}
    assert found["accuracy"] == found["auc"] == 1
    values = FittedModel(LinearModel(1), np.array([2, -1], np.float32))
    np.testing.assert_array_equal(values.predict(x), [-1, 1])
    assert values.evaluate(Examples(x, np.array([-1, 2], np.float32)))["rmse"] == pytest.approx(0.5**0.5)
    with pytest.raises(InvalidInput, match="predict"):
        values.probabilities(x)
    with pytest.raises(InvalidInput, match="labels"):
        binary.evaluate(Examples(x, y + 1))
