import sys

import numpy as np
import pytest

from manent.core.errors import MissingExtra
from manent.core.examples import Client, Column, Examples, Schema
from manent.data.constructors import from_arrays
from manent.data.federation import Federation
from manent.data.generated import synthetic
from manent.data.heart import heart_disease
from manent.data.splits import IID, LabelSkew


def of_labels(*labels: list[int], classes: int) -> Federation:
    clients = [Client(f"c{i}", Examples(np.zeros((len(y), 1), np.float32), np.array(y, np.int64))) for i, y in enumerate(labels)]
    return Federation(tuple(clients), Schema(shape=(1,), classes=classes, target=Column("y")))


def test_total_variation_by_hand():
    facts = of_labels([0, 0, 0, 0], [1, 1], [0, 1], classes=2).describe()
    # Pooled: 5/8 and 3/8. Distances: 3/8, 5/8, 1/8; weighted by 4, 2 and 2 rows.
    assert facts.target.distances.tolist() == [0.375, 0.625, 0.125]
    assert facts.heterogeneity == pytest.approx((4 * 0.375 + 2 * 0.625 + 2 * 0.125) / 8)


def test_equal_clients_are_at_distance_zero_and_disjoint_ones_far():
    assert of_labels([0, 1, 2], [0, 1, 2], classes=3).describe().heterogeneity == pytest.approx(0.0)
    assert of_labels(*([label] * 3 for label in range(10)), classes=10).describe().heterogeneity == pytest.approx(0.9)


def test_chance_explains_what_iid_clients_show_and_not_what_skewed_ones_do():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2000, 2)), rng.integers(0, 10, 2000)
    iid = from_arrays(x, y, clients=50, split=IID()).describe()
    skewed = from_arrays(x, y, clients=50, split=LabelSkew(2)).describe()
    assert iid.heterogeneity == pytest.approx(iid.by_chance, rel=0.1)
    assert skewed.heterogeneity > 3 * skewed.by_chance


def test_regression_is_measured_by_variance_between_clients():
    rng = np.random.default_rng(0)
    key = rng.integers(0, 4, 4000)
    apart = from_arrays(rng.normal(size=(4000, 2)), key.astype(float), by=key).describe()
    assert apart.heterogeneity == pytest.approx(1.0)
    alike = from_arrays(rng.normal(size=(4000, 2)), rng.normal(size=4000), by=key).describe()
    assert alike.heterogeneity < 0.005
    assert "target mean" in str(alike)


def test_few_clients_are_listed_with_base_rates():
    text = str(heart_disease().describe())
    for word in ("Cleveland", "45.9%", "37.5%", "97.8%", "77.7%", "51.8%", "254", "dealt at random"):
        assert word in text


def test_many_clients_are_summarised():
    text = str(synthetic(1, 1, clients=1000, seed=1).describe())
    assert len(text.splitlines()) < 15
    for word in ("1,000 clients", "median", "train rows", "classes held, of 10", "distance to pooled"):
        assert word in text


@pytest.mark.parametrize("classes", [2, 4, 20])
@pytest.mark.parametrize("clients", [3, 40])
def test_it_draws_any_federation(tmp_path, clients, classes):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plots')")
    rng = np.random.default_rng(0)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, 400)])
    federation = from_arrays(rng.normal(size=(len(y), 2)), y, clients=clients)
    path = tmp_path / "federation.png"
    figure = federation.describe().plot(str(path))
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert len(figure.axes) >= 2


@pytest.mark.parametrize("clients", [3, 40])
def test_it_draws_regression(tmp_path, clients):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra 'plots')")
    rng = np.random.default_rng(0)
    federation = from_arrays(rng.normal(size=(400, 2)), rng.normal(size=400), clients=clients)
    federation.describe().plot(str(tmp_path / "federation.svg"))
    assert (tmp_path / "federation.svg").stat().st_size > 1000


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"manent\[plots\]"):
        heart_disease().describe().plot()
