"""Every module of flax.linen in private training: exact, as in `test_private_modules`. What is not pure is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")
linen = pytest.importorskip("flax.linen")
from manent.core.errors import InvalidInput, Refused  # noqa: E402
from manent.core.examples import Examples  # noqa: E402
from manent.core.training.dpsgd import SUM_SLACK  # noqa: E402
from manent.models import JaxModel  # noqa: E402

jnp = jax.numpy
ROWS, CLIP = 7, 0.05
VECTOR, TEXT, PICTURE = (6,), (5, 6), (4, 4, 3)
KEY = jax.random.key(3)


@dataclass(frozen=True)
class Layer:
    """One module: how it is made, the shape of a row, how it is called."""

    make: Callable[[], Any]
    shape: tuple[int, ...] = VECTOR
    call: Callable[[Any, Any], Any] = lambda layer, x: layer(x)
    codes: bool = False


def recurrent(cell: Callable[[], Any]) -> Layer:
    return Layer(lambda: linen.RNN(cell()), TEXT)


def step(layer: Any, x: Any) -> Any:
    return layer(layer.initialize_carry(KEY, x.shape), x)[1]


LAYERS: dict[str, Layer] = {
    "BatchNorm": Layer(lambda: linen.BatchNorm(use_running_average=False), PICTURE),
    "Bidirectional": Layer(lambda: linen.Bidirectional(linen.RNN(linen.GRUCell(3)), linen.RNN(linen.GRUCell(3))), TEXT),
    "Conv": Layer(lambda: linen.Conv(3, (2, 2)), PICTURE),
    "ConvLSTMCell": Layer(lambda: linen.ConvLSTMCell(3, (2, 2)), PICTURE, step),
    "ConvLocal": Layer(lambda: linen.ConvLocal(3, (2, 2)), PICTURE),
    "ConvTranspose": Layer(lambda: linen.ConvTranspose(3, (2, 2)), PICTURE),
    "Dense": Layer(lambda: linen.Dense(5)),
    "DenseGeneral": Layer(lambda: linen.DenseGeneral((2, 3), axis=(1, 2)), TEXT),
    "Dropout": Layer(lambda: linen.Dropout(0.5, deterministic=False)),
    "Einsum": Layer(lambda: linen.Einsum((6, 4), "bi,io->bo")),
    "Embed": Layer(lambda: linen.Embed(9, 4), (5,), codes=True),
    "GRUCell": recurrent(lambda: linen.GRUCell(3)),
    "GroupNorm": Layer(lambda: linen.GroupNorm(3), PICTURE),
    "InstanceNorm": Layer(lambda: linen.InstanceNorm(), PICTURE),
    "LSTMCell": recurrent(lambda: linen.LSTMCell(3)),
    "LayerNorm": Layer(lambda: linen.LayerNorm()),
    "MGUCell": recurrent(lambda: linen.MGUCell(3)),
    "MultiHeadAttention": Layer(lambda: linen.MultiHeadAttention(2, dropout_rate=0.5, deterministic=False), TEXT),
    "MultiHeadDotProductAttention": Layer(lambda: linen.MultiHeadDotProductAttention(2), TEXT),
    "OptimizedLSTMCell": recurrent(lambda: linen.OptimizedLSTMCell(3)),
    "PReLU": Layer(lambda: linen.PReLU()),
    "RMSNorm": Layer(lambda: linen.RMSNorm()),
    "RNN": recurrent(lambda: linen.SimpleCell(3)),
    "SelfAttention": Layer(lambda: linen.SelfAttention(2), TEXT),
    "Sequential": Layer(lambda: linen.Sequential([linen.Dense(5), jnp.tanh, linen.Dropout(0.5, deterministic=False)])),
    "SimpleCell": recurrent(lambda: linen.SimpleCell(3)),
    "SpectralNorm": Layer(lambda: linen.SpectralNorm(linen.Dense(4)), VECTOR, lambda layer, x: layer(x, update_stats=True)),
    "WeightNorm": Layer(lambda: linen.WeightNorm(linen.Dense(4))),
}
BESIDE = {"Module", "RNNCellBase"}


class Around(linen.Module):
    """A layer before weights."""

    row: Layer

    @linen.compact
    def __call__(self, x: Any) -> Any:
        inner = self.row.call(self.row.make(), x)
        return linen.Dense(3)(inner.reshape(len(x), -1))


def model_of(row: Layer) -> JaxModel:
    network, rngs = Around(row), {"dropout": KEY}
    one = jnp.zeros((1, *row.shape), jnp.int32 if row.codes else jnp.float32)
    kept = {name: found for name, found in network.init({"params": KEY, **rngs}, one).items() if name != "params"}

    def init(key: Any) -> Any:
        return network.init({"params": key, **rngs}, one)["params"]

    def apply(parameters: Any, x: Any) -> Any:
        return network.apply({"params": parameters, **kept}, x, rngs=rngs, mutable=list(kept))[0]

    return JaxModel(init, apply, "cross_entropy", classes=3)


def data_of(shape: tuple[int, ...], codes: bool) -> Examples:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, ROWS)
    if codes:
        return Examples(rng.integers(0, 9, (ROWS, *shape)), y)
    x = rng.standard_normal((ROWS, *shape), dtype=np.float32)
    x[1] *= 1e4
    x[2] *= 1e-4
    x[4], y[4] = x[3], y[3]
    return Examples(x, y)


def test_every_module_of_flax_has_a_row() -> None:
    modules = {name for name, kind in vars(linen).items() if inspect.isclass(kind) and issubclass(kind, linen.Module)}
    numbers = {name for name in modules if "Fp8" in name}  # numbers of eight bits, inside other layers
    assert modules - numbers - BESIDE - set(LAYERS) == set()


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_is_exact(name: str) -> None:
    row = LAYERS[name]
    model, data = model_of(row), data_of(row.shape, row.codes)
    model.check_private()
    vector = model.init(np.random.default_rng(0))

    def summed(part: Examples) -> Any:
        return model.clipped_gradient_sum(vector, part, CLIP)[0]

    whole = summed(data)
    assert np.abs(whole).max() > 0
    alone = [summed(data[row : row + 1]) for row in range(ROWS)]
    assert all(np.linalg.norm(one) <= CLIP * (1 + SUM_SLACK) for one in alone)
    np.testing.assert_allclose(whole, sum(alone), rtol=0, atol=1e-12 * CLIP)
    order = np.random.default_rng(2).permutation(ROWS)
    np.testing.assert_allclose(summed(data[order]), whole, rtol=0, atol=1e-12 * CLIP)
    for left_out in (0, ROWS - 1):
        rest = np.delete(np.arange(ROWS), left_out)
        assert np.linalg.norm(whole - summed(data[rest])) <= CLIP * (1 + SUM_SLACK)


def counting() -> Callable[[Any, Any], Any]:
    calls = [0]

    def apply(p: Any, x: Any) -> Any:
        calls[0] += 1
        return x @ p["w"] * calls[0]

    return apply


def drawing(p: Any, x: Any) -> Any:
    return x @ p["w"] + np.random.normal(size=3).astype(np.float32)  # noqa: NPY002


def leaking() -> Callable[[Any, Any], Any]:
    seen: list[Any] = []

    def apply(p: Any, x: Any) -> Any:
        seen.append(x.mean(0))
        return (x - seen[0]) @ p["w"]

    return apply


def calling_back(p: Any, x: Any) -> Any:
    shape = jax.ShapeDtypeStruct((len(x), 3), jnp.float32)
    return x @ p["w"] + jax.lax.stop_gradient(jax.pure_callback(lambda v: np.zeros((len(v), 3), np.float32), shape, x))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (counting, "something else each time"),
        (lambda: drawing, "something else each time"),
        (leaking, "apply or the loss"),
        (lambda: calling_back, "calls back into Python|fails"),
    ],
)
def test_what_is_not_pure_is_refused(make: Callable[[], Any], why: str) -> None:
    data = Examples(np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), np.arange(4) % 3)
    model = JaxModel(lambda key: {"w": jnp.ones((6, 3))}, make(), "cross_entropy", classes=3)
    with pytest.raises((Refused, InvalidInput), match=why):
        model.clipped_gradient_sum(model.init(np.random.default_rng(0)), data, CLIP)
    with pytest.raises(InvalidInput, match="apply"):
        JaxModel(lambda key: {"w": jnp.ones((6, 3))}, make(), "cross_entropy", classes=3).check(data, "here")
