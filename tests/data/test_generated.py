import numpy as np
import pytest

from manent.core.errors import InvalidInput
from manent.data.generated import synthetic


def inputs(federation):
    return [np.concatenate([c.train.x, c.test.x]).astype(np.float64) for c in federation]


def test_form_and_sizes():
    federation = synthetic(1, 1, seed=3)
    assert len(federation) == 30
    assert federation.schema.shape == (60,)
    assert federation.schema.classes == 10
    for client in federation:
        rows = len(client.train) + len(client.test)
        assert rows >= 50
        assert len(client.train) == int(0.9 * rows)
    assert federation.name == "synthetic(1, 1)"


def test_sizes_are_log_normal():
    sizes = np.array([len(x) for x in inputs(synthetic(0, 0, clients=400))]) - 50
    logs = np.log(sizes[sizes > 0] + 0.5)
    assert np.median(logs) == pytest.approx(4, abs=0.3)
    assert logs.std() == pytest.approx(2, abs=0.25)


def test_covariance_decays_as_published():
    pooled = np.concatenate([x - x.mean(axis=0) for x in inputs(synthetic(0.5, 0.5)) if len(x) > 200])
    assert np.allclose(pooled.var(axis=0), np.arange(1, 61) ** -1.2, rtol=0.1)
    off = np.corrcoef(pooled.T) - np.eye(60)
    assert np.abs(off).max() < 0.1


def test_beta_spreads_the_inputs_and_alpha_the_labels():
    near, far = (np.std([x.mean() for x in inputs(synthetic(0, beta, clients=200, seed=1))]) for beta in (0, 3))
    assert near == pytest.approx(1 / np.sqrt(60), rel=0.3)
    assert far == pytest.approx(3, rel=0.3)
    iid, skewed = (s.describe().heterogeneity for s in (synthetic(0, 0, iid=True), synthetic(1, 1)))
    assert skewed > 3 * iid


def test_iid_clients_share_one_classifier():
    federation = synthetic(0, 0, iid=True)
    facts = federation.describe()
    assert facts.heterogeneity < 2 * facts.by_chance
    x, y = federation.pooled().x, federation.pooled().y
    # One linear classifier explains every client's labels: least squares on one half of them predicts the other.
    half, ones = len(x) // 2, np.ones((len(x), 1))
    inputs_ = np.hstack([x, ones]).astype(np.float64)
    weights = np.linalg.lstsq(inputs_[:half], np.eye(10)[y[:half]], rcond=None)[0]
    assert ((inputs_[half:] @ weights).argmax(axis=1) == y[half:]).mean() > 0.5


def test_seed_decides():
    one, same, other = (synthetic(1, 1, clients=5, seed=seed).fingerprint() for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1}, "alpha >= 0; found -1"),
        ({"beta": float("nan")}, "beta >= 0; found nan"),
        ({"clients": 0}, "clients >= 1; found 0"),
        ({"test_fraction": 1.0}, "test_fraction < 1; found 1.0"),
        ({"iid": True}, "found alpha="),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        synthetic(**{"alpha": 1, "beta": 1, **arguments})
