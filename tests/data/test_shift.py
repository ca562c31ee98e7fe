import numpy as np
import pytest

from manent.core.errors import InvalidInput
from manent.core.examples import Client, Column, Examples, Schema
from manent.data.federation import Federation
from manent.data.heart import heart_disease
from manent.data.shift import feature_shift


def pictures(clients: int = 3, rows: int = 4) -> Federation:
    image = np.zeros((rows, 1, 9, 9), np.float32)
    image[:, :, 4, 1:8] = 1.0  # a horizontal bar
    data = Examples(image, np.zeros(rows, np.int64))
    return Federation(tuple(Client(f"c{i}", data, data) for i in range(clients)), Schema(shape=(1, 9, 9), classes=2), test=data)


@pytest.mark.parametrize("kind", ["noise", "rotation", "affine"])
def test_strength_zero_changes_nothing_and_a_seed_repeats(kind):
    federation = pictures()
    unchanged = feature_shift(federation, kind, 0.0)
    assert all(np.allclose(a.train.x, b.train.x, atol=1e-6) for a, b in zip(federation, unchanged, strict=True))
    one, same = (feature_shift(federation, kind, 0.5, seed=1).fingerprint() for _ in range(2))
    assert one == same != federation.fingerprint()


def test_labels_columns_names_and_the_servers_test_set_stay():
    before, after = heart_disease("none"), feature_shift(heart_disease("none"), "noise", 4.0)
    assert before.names == after.names
    for a, b in zip(before, after, strict=True):
        assert np.array_equal(a.test.y, b.test.y)
        assert np.array_equal(a.train.columns["age"], b.train.columns["age"])
        assert not np.array_equal(a.test.x, b.test.x)
    assert feature_shift(pictures(), "noise", 1.0).test.x.sum() == pictures().test.x.sum()


def test_noise_grows_with_the_clients_number():
    flat = Examples(np.zeros((500, 20), np.float32), np.zeros(500, np.float32))
    federation = Federation(tuple(Client(f"c{i}", flat) for i in range(4)), Schema(shape=(20,)))
    variances = [c.train.x.var() for c in feature_shift(federation, "noise", 2.0)]
    assert np.allclose(variances, [0.5, 1.0, 1.5, 2.0], rtol=0.05)


def test_rotation_turns_evenly_from_one_side_to_the_other():
    turned = feature_shift(pictures(), "rotation", 90)
    left, middle, right = (c.train.x[0, 0] for c in turned)
    upright = pictures().clients[0].train.x[0, 0]
    assert np.allclose(middle, upright, atol=1e-6)
    assert np.allclose(left, upright.T, atol=1e-5)
    assert np.allclose(right, upright.T, atol=1e-5)
    marked = np.zeros((1, 1, 9, 9), np.float32)
    marked[0, 0, 4, 7] = 1.0
    one = Federation((Client("a", Examples(marked, np.zeros(1, np.int64))),), Schema(shape=(1, 9, 9), classes=2))
    assert feature_shift(one, "rotation", 90).clients[0].train.x[0, 0].argmax() in (1 * 9 + 4, 7 * 9 + 4)


def test_affine_is_one_map_for_train_and_test_of_a_client():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype(np.float32)
    data = Examples(x, np.zeros(50, np.float32))
    federation = Federation((Client("a", data, data), Client("b", data, data)), Schema(shape=(3,)))
    a, b = feature_shift(federation, "affine", 0.5)
    assert np.array_equal(a.train.x, a.test.x)
    assert not np.allclose(a.train.x, b.train.x)
    gain = a.train.x.std(axis=0) / x.std(axis=0)
    assert np.allclose((a.train.x - a.train.x.mean(axis=0)), (x - x.mean(axis=0)) * gain, atol=1e-5)


def test_what_cannot_be_shifted_is_refused():
    codes = Examples(np.zeros((2, 3), np.int64), np.zeros(2, np.int64))
    text = Federation((Client("a", codes),), Schema(shape=(3,), classes=2))
    with pytest.raises(InvalidInput, match="characters"):
        feature_shift(text, "noise", 1.0)
    with pytest.raises(InvalidInput, match="needs images"):
        feature_shift(heart_disease(), "rotation", 10)
    with pytest.raises(InvalidInput, match="strength >= 0"):
        feature_shift(pictures(), "noise", -1)
    with pytest.raises(InvalidInput, match="'noise', 'rotation', 'affine'"):
        feature_shift(pictures(), "blur", 1)


def test_bounds_that_no_longer_hold_are_lifted():
    schema = Schema(features=(Column("p", "m", 0, 1, description="kept"),), shape=(1,))
    data = Examples(np.ones((2, 1), np.float32), np.zeros(2, np.float32))
    shifted = feature_shift(Federation((Client("a", data),), schema), "affine", 3.0)
    assert shifted.schema.features == (Column("p", "m", description="kept"),)
