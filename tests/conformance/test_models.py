"""What every model must do, whatever its framework. A new model adds one row to ROWS."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput
from manent.core.examples import Examples
from manent.core.training import LocalSGD, LocalTraining, descend
from manent.models import FittedModel, LinearModel, LogisticModel, SoftmaxModel, load_model
from manent.models.numpy import loss_and_slope

Vector64 = np.ndarray


@dataclass(frozen=True)
class Row:
    """One implementation.

    Attributes:
        make: the model; `make(2.0)` one that differs in what is minimised or computed.
        data: examples of a seed and a number of rows.
        needs: package without which the row is skipped.
        batch_coupled: rows of a batch change each other's scores in training (BatchNorm).
    """

    make: Callable[..., Any]
    data: Callable[[int, int], Examples]
    needs: str = "numpy"
    batch_coupled: bool = False


def tabular(features: int, classes: int) -> Callable[[int, int], Examples]:
    def draw(seed: int, rows: int) -> Examples:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((rows, features), dtype=np.float32)
        if classes:
            return Examples(x, rng.integers(0, classes, rows))
        return Examples(x, (x.sum(axis=1) + rng.standard_normal(rows)).astype(np.float32))

    return draw


def images(seed: int, rows: int) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.standard_normal((rows, 2, 8, 8), dtype=np.float32), rng.integers(0, 3, rows))


def text(seed: int, rows: int) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.integers(0, 7, (rows, 5)), rng.integers(0, 7, (rows, 5)))


def torch_mlp(variant: float = 1.0) -> Any:
    from torch import nn

    from manent.models import TorchModel

    return TorchModel(nn.Sequential(nn.Linear(6, int(8 * variant)), nn.ReLU(), nn.Linear(int(8 * variant), 3)), "cross_entropy")


def torch_conv(variant: float = 1.0) -> Any:
    from torch import nn

    from manent.models import TorchModel

    width = int(4 * variant)
    layers = [nn.Conv2d(2, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, 5, 2, bias=False), nn.AvgPool2d(3)]
    return TorchModel(nn.Sequential(*layers, nn.Flatten(), nn.ReLU(), nn.Linear(5, 3)), "cross_entropy")


def torch_norm(variant: float = 1.0) -> Any:
    from torch import nn

    from manent.models import TorchModel

    # No bias before BatchNorm: its gradient is only rounding, which Adam would magnify.
    return TorchModel(
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5, eps=1e-5 * variant), nn.Tanh(), nn.Linear(5, 1)), "mse"
    )


def torch_sequence(variant: float = 1.0) -> Any:
    from torch import nn

    from manent.models import TorchModel

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.letters, self.memory = nn.Embedding(7, 4), nn.GRU(4, int(5 * variant), batch_first=True)
            self.next = nn.Linear(int(5 * variant), 7)

        def forward(self, x: Any) -> Any:
            return self.next(self.memory(self.letters(x))[0])

    return TorchModel(Reader(), "cross_entropy")


def torch_binary(variant: float = 1.0) -> Any:
    import torch
    from torch import nn

    from manent.models import TorchModel

    width = int(4 * variant)

    def loss(scores: Any, y: Any) -> Any:
        return nn.functional.softplus(torch.where(y == 1, -scores, scores)).mean()

    return TorchModel(nn.Sequential(nn.Linear(6, width), nn.Sigmoid(), nn.Linear(width, 1)), loss, kind="binary")


def jax_dense(sizes: tuple[int, ...]) -> tuple[Any, Any]:
    """init and apply of a dense network."""
    import jax

    def init(key: Any) -> Any:
        keys = jax.random.split(key, len(sizes))
        each = zip(keys, sizes, sizes[1:], strict=False)
        return [{"w": jax.random.normal(k, (a, b)) / a**0.5, "b": jax.numpy.zeros(b)} for k, a, b in each]

    def apply(layers: Any, x: Any) -> Any:
        for layer in layers[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        return x @ layers[-1]["w"] + layers[-1]["b"]

    return init, apply


@functools.cache  # one object, for the programs that it has compiled
def jax_mlp(variant: float = 1.0) -> Any:
    from manent.models import JaxModel

    return JaxModel(*jax_dense((6, int(8 * variant), 3)), "cross_entropy", classes=3)


@functools.cache  # one object, for the programs that it has compiled
def jax_binary(variant: float = 1.0) -> Any:
    import jax

    from manent.models import JaxModel

    def loss(scores: Any, y: Any) -> Any:
        return jax.nn.softplus(jax.numpy.where(y == 1, -scores, scores)).mean() * variant

    return JaxModel(*jax_dense((6, 4, 1)), loss, kind="binary")


@functools.cache  # one object, for the programs that it has compiled
def jax_sequence(variant: float = 1.0) -> Any:
    import jax

    from manent.models import JaxModel

    width = int(5 * variant)

    def init(key: Any) -> Any:
        first, last = jax.random.split(key)
        return {"letters": jax.random.normal(first, (7, width)), "next": jax.random.normal(last, (width, 7)) / width**0.5}

    def apply(p: Any, x: Any) -> Any:
        return jax.numpy.tanh(p["letters"][x].cumsum(axis=1)) @ p["next"]

    return JaxModel(init, apply, "cross_entropy", classes=7)


def sk_logistic(variant: float = 1.0) -> Any:
    from sklearn.linear_model import LogisticRegression

    from manent.models import SklearnModel

    return SklearnModel(LogisticRegression(C=variant), 6, 3, examples=20)


def sk_ridge(variant: float = 1.0) -> Any:
    from sklearn.linear_model import Ridge

    from manent.models import SklearnModel

    return SklearnModel(Ridge(alpha=variant, fit_intercept=False), 6, examples=20)


def sk_sgd(variant: float = 1.0) -> Any:
    from sklearn.linear_model import SGDClassifier

    from manent.models import SklearnModel

    return SklearnModel(SGDClassifier(loss="log_loss", alpha=0.1 * variant), 6, 2)


def sk_mlp(variant: float = 1.0) -> Any:
    from sklearn.neural_network import MLPClassifier

    from manent.models import SklearnModel

    return SklearnModel(MLPClassifier(hidden_layer_sizes=(5, 4), activation="tanh", alpha=variant), 6, 3, examples=50)


def sk_mlp_regressor(variant: float = 1.0) -> Any:
    from sklearn.neural_network import MLPRegressor

    from manent.models import SklearnModel

    return SklearnModel(MLPRegressor(hidden_layer_sizes=(5,), activation="logistic", alpha=variant), 6, examples=50)


ROWS = {
    "numpy linear": Row(lambda v=1.0: LinearModel(6, l2=0.1 * v, initial="uniform"), tabular(6, 0)),
    "numpy logistic": Row(lambda v=1.0: LogisticModel(6, l2=0.1 * v, initial="uniform"), tabular(6, 2)),
    "numpy softmax": Row(lambda v=1.0: SoftmaxModel(6, 3, l2=0.1 * v, initial="uniform"), tabular(6, 3)),
    "torch stack": Row(torch_mlp, tabular(6, 3), "torch"),
    "torch convolutions": Row(torch_conv, images, "torch"),
    "torch BatchNorm": Row(torch_norm, tabular(6, 0), "torch", batch_coupled=True),
    "torch sequence": Row(torch_sequence, text, "torch"),
    "torch loss function": Row(torch_binary, tabular(6, 2), "torch"),
    "torch stack, four together": Row(lambda v=1.0: replace(torch_mlp(v), together=4), tabular(6, 3), "torch"),
    "torch convolutions, four together": Row(lambda v=1.0: replace(torch_conv(v), together=4), images, "torch"),
    "torch loss function, four together": Row(lambda v=1.0: replace(torch_binary(v), together=4), tabular(6, 2), "torch"),
    "jax dense": Row(jax_mlp, tabular(6, 3), "jax"),
    "jax sequence": Row(jax_sequence, text, "jax"),
    "jax loss function": Row(jax_binary, tabular(6, 2), "jax"),
    "sklearn LogisticRegression": Row(sk_logistic, tabular(6, 3), "sklearn"),
    "sklearn Ridge": Row(sk_ridge, tabular(6, 0), "sklearn"),
    "sklearn SGDClassifier": Row(sk_sgd, tabular(6, 2), "sklearn"),
    "sklearn MLPClassifier": Row(sk_mlp, tabular(6, 3), "sklearn"),
    "sklearn MLPRegressor": Row(sk_mlp_regressor, tabular(6, 0), "sklearn"),
}


@pytest.fixture(params=ROWS)
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    row = ROWS[request.param]
    if importlib.util.find_spec(row.needs) is None:
        pytest.skip(f"{row.needs} is not installed")
    with one_thread() if row.needs == "torch" else nullcontext():
        yield row


@contextmanager
def one_thread() -> Iterator[None]:
    """As workers do: for networks this small, torch's threads cost more than they bring."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def start_of(model: Any, seed: int = 0) -> Any:
    return model.init(np.random.default_rng(seed))


def parameters(model: Any) -> slice:
    return model.layout.slice("parameters")


@functools.cache
def jax_losses(model: Any) -> Any:
    import jax

    return jax.jit(lambda vector, x, y: model._losses(model._tree(vector), x, y))


def objective(model: Any, vector: Vector64, data: Examples) -> float:
    """What `gradient` differentiates, in float64."""
    if hasattr(model, "module"):
        import torch

        module = model.module(vector.astype(np.float32)).double().train()
        pieces = model.layout.unflatten(vector)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(pieces[name]))
        x = torch.from_numpy(data.x)
        y = torch.from_numpy(data.y)
        scores = module(x.double() if x.is_floating_point() else x)
        return model._loss(scores, y.double() if y.is_floating_point() else y).item()
    if hasattr(model, "tree"):
        import jax

        with jax.enable_x64(True):
            x = data.x.astype(np.float64) if data.x.dtype.kind == "f" else data.x
            return float(jax_losses(model)(jax.numpy.asarray(vector), x, data.y).mean())
    scores = model.scores(vector, data.x.astype(np.float64))
    loss = loss_and_slope(model.kind, scores.reshape(len(scores), -1), data.y)[0]
    return loss + model.l2 / 2 * sum(float((W**2).sum()) for W, _ in model.weights(vector))


def test_layout_describes_the_vector(row: Row) -> None:
    model = row.make()
    vector = start_of(model)
    assert vector.dtype == np.float32
    assert vector.shape == (model.layout.size,)
    assert model.layout.blocks[0].name == "parameters"
    assert [b.name for b in model.layout.blocks[1:]] in ([], ["statistics"])
    np.testing.assert_array_equal(model.layout.flatten(model.layout.unflatten(vector)), vector)


def test_first_weights_depend_on_the_seed_alone(row: Row) -> None:
    first, again, other = start_of(row.make(), 1), start_of(row.make(), 1), start_of(row.make(), 2)
    np.testing.assert_array_equal(first, again)
    if np.any(first):
        assert np.any(first != other)


def test_gradient_is_the_derivative_of_the_loss(row: Row) -> None:
    model, data = row.make(), row.data(3, 20)
    model.check(data, "test")
    vector = start_of(model)
    vector[parameters(model)] += np.random.default_rng(7).normal(0, 0.2, parameters(model).stop).astype(np.float32)
    gradient = model.gradient(vector, data)
    assert gradient.dtype == np.float32
    assert gradient.shape == (parameters(model).stop,)
    for index in np.random.default_rng(5).permutation(len(gradient))[:25]:
        step = np.zeros(len(vector))
        step[index] = 1e-5
        difference = (objective(model, vector + step, data) - objective(model, vector - step, data)) / 2e-5
        assert gradient[index] == pytest.approx(difference, abs=2e-5, rel=2e-4)


LOCALS = {
    "plain": (LocalSGD(lr=0.1, epochs=2, batch_size=6), {}),
    "full batch": (LocalSGD(lr=0.1, steps=3), {}),
    "uneven steps": (LocalSGD(lr=0.05, steps=7, batch_size=5), {}),
    "momentum": (LocalSGD(lr=0.05, epochs=2, batch_size=6, momentum=0.9), {}),
    "weight decay": (LocalSGD(lr=0.1, epochs=1, batch_size=6, weight_decay=0.3), {}),
    "clipped": (LocalSGD(lr=0.1, epochs=1, batch_size=6, max_grad_norm=0.2, weight_decay=0.1), {}),
    "clipped with momentum": (LocalSGD(lr=0.1, epochs=1, batch_size=6, max_grad_norm=0.2, momentum=0.5), {}),
    "prox": (LocalSGD(lr=0.1, epochs=2, batch_size=6), {"prox": 0.5}),
    "prox and anchor": (LocalSGD(lr=0.1, epochs=2, batch_size=6), {"prox": 0.5, "anchor": 1}),
    "shift": (LocalSGD(lr=0.1, epochs=1, batch_size=6), {"shift": 2}),
    "all": (LocalSGD(lr=0.1, epochs=1, batch_size=6, momentum=0.5, weight_decay=0.1), {"prox": 0.5, "anchor": 1, "shift": 2}),
    "adam": (LocalSGD(lr=0.01, epochs=2, batch_size=6, optimizer="adam"), {}),
    "adam with all": (
        LocalSGD(lr=0.01, epochs=1, batch_size=6, optimizer="adam", max_grad_norm=0.5, weight_decay=0.1),
        {"prox": 0.5, "anchor": 1, "shift": 2},
    ),
}


def work_of(model: Any, rows: int, kind: str = "plain", seed: int = 0) -> LocalTraining:
    local, extra = LOCALS[kind]
    size = parameters(model).stop
    vectors = {k: np.random.default_rng(v).normal(0, 0.1, size).astype(np.float32) for k, v in extra.items() if k != "prox"}
    prox = float(extra.get("prox", 0.0))
    batches = local.batches(rows, np.random.default_rng(seed))
    return LocalTraining(start_of(model, seed), batches, local, local.lr, prox=prox, seed=seed, **vectors)


@pytest.mark.parametrize("kind", LOCALS)
def test_training_is_the_kernel(row: Row, kind: str) -> None:
    """`train` does what `core.training.descend` does with the model's own gradient."""
    model, data = row.make(), row.data(4, 20)
    work = work_of(model, len(data), kind)
    losses: list[float] = []

    def gradient(vector: Any, x: Any, y: Any) -> tuple[float, Any]:
        losses.append(0.0)
        return 0.0, model.gradient(vector, Examples(x, y)).copy()

    expected = descend(gradient, parameters(model).stop, work, data)
    (trained,) = model.train([work], [data])
    assert len(losses) == len(work.batches)
    cut = parameters(model)
    np.testing.assert_allclose(trained.vector[cut], expected.vector[cut], rtol=2e-4, atol=3e-5)
    assert np.abs(trained.vector[cut] - work.start[cut]).max() > 1e-3


def test_training_reports_the_mean_loss_of_its_steps(row: Row) -> None:
    if row.batch_coupled:
        pytest.skip("the loss in training mode is not that of evaluation")
    model, data = row.make(), row.data(4, 20)
    work = LocalTraining(start_of(model), [slice(None)], LocalSGD(lr=0.1, steps=1), 0.1)
    (trained,) = model.train([work], [data])
    assert trained.loss == pytest.approx(model.evaluate(work.start, data).loss, rel=1e-5)


def test_training_lowers_the_loss(row: Row) -> None:
    model, data = row.make(), row.data(4, 30)
    local = LocalSGD(lr=0.1, steps=60)
    work = LocalTraining(start_of(model), local.batches(30, np.random.default_rng(0)), local, 0.1)
    (trained,) = model.train([work], [data])
    assert model.evaluate(trained.vector, data).loss < model.evaluate(work.start, data).loss


def test_inputs_are_left_alone(row: Row) -> None:
    model, data = row.make(), row.data(4, 20)
    work = work_of(model, 20, "all")
    arrays = [work.start, work.anchor, work.shift, data.x, data.y]
    before = [np.array(a) for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    (trained,) = model.train([work], [data])
    kept = trained.vector.copy()
    model.gradient(work.start, data)
    model.evaluate(work.start, data)
    model.scores(work.start, data.x)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(trained.vector, kept)


def test_equal_seeds_give_equal_bits_and_clients_do_not_leak(row: Row) -> None:
    """A client's result is the same alone, after another, and from another model object."""
    model = row.make()
    first, second = row.data(1, 20), row.data(2, 15)
    works = [work_of(model, 20, "momentum", 1), work_of(model, 15, "plain", 2)]
    together = model.train(works, [first, second])
    model.evaluate(works[0].start, second)
    alone = model.train(works[1:], [second])
    fresh = row.make().train(works[1:], [second])
    np.testing.assert_array_equal(together[1].vector, alone[0].vector)
    np.testing.assert_array_equal(together[1].vector, fresh[0].vector)
    assert together[1].loss == alone[0].loss == fresh[0].loss


@pytest.mark.parametrize("kind", ["uneven steps", "adam with all"])
def test_several_clients_get_what_each_gets_alone(row: Row, kind: str) -> None:
    """Of unequal sizes, so that batches and numbers of steps differ too."""
    model, sizes = row.make(), (20, 15, 9, 20, 8)
    data = [row.data(seed, size) for seed, size in enumerate(sizes)]
    works = [work_of(model, size, kind, seed) for seed, size in enumerate(sizes)]
    for work, part, trained in zip(works, data, model.train(works, data), strict=True):
        (alone,) = model.train([work], [part])
        np.testing.assert_allclose(trained.vector, alone.vector, rtol=2e-4, atol=3e-5)
        assert trained.loss == pytest.approx(alone.loss, rel=1e-4, abs=1e-6)


def test_evaluation_scores_every_row(row: Row) -> None:
    model, data = row.make(), row.data(4, 700)
    vector = start_of(model)
    whole, half = model.evaluate(vector, data), model.evaluate(vector, data[:350])
    other = model.evaluate(vector, data[350:])
    np.testing.assert_allclose(whole.scores, np.concatenate([half.scores, other.scores]), rtol=1e-4, atol=1e-5)
    assert whole.loss == pytest.approx((half.loss + other.loss) / 2, rel=1e-5)
    np.testing.assert_allclose(model.scores(vector, data.x), whole.scores, rtol=1e-4, atol=1e-5)
    leading = whole.scores.shape[: data.y.ndim]
    assert leading == data.y.shape
    if model.kind == "multiclass":
        assert whole.scores.shape[-1] == model.classes
    assert whole.labels.shape == data.y.shape


def test_no_rows_have_no_scores(row: Row) -> None:
    model = row.make()
    scored = model.evaluate(start_of(model), row.data(4, 5)[:0])
    assert scored.count == 0
    assert scored.loss == 0


def test_weights_survive_a_file(row: Row, tmp_path: Any) -> None:
    model, data = row.make(), row.data(4, 20)
    fitted = FittedModel(model, start_of(model, 3))
    fitted.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors", row.make())
    np.testing.assert_array_equal(again.vector, fitted.vector)
    np.testing.assert_array_equal(again.predict(data.x), fitted.predict(data.x))
    assert again.evaluate(data) == fitted.evaluate(data)


def test_plain_is_stable_and_tells_models_apart(row: Row) -> None:
    model = row.make()
    text = canonical(to_plain(model))
    assert json.loads(text) == to_plain(model)
    model.train([work_of(model, 20)], [row.data(1, 20)])
    assert canonical(to_plain(model)) == text == canonical(to_plain(row.make()))
    assert canonical(to_plain(row.make(2.0))) != text


def spoiled(data: Examples, kind: str) -> list[tuple[Examples, str]]:
    """Bad data, and a word of the complaint."""
    x, y = data.x, data.y
    found = [(data[:0], "no rows"), (Examples(x.astype(np.float16), y), "float32")]
    if x.dtype == np.float32:
        hole = x.copy()
        hole[(3, *[0] * (x.ndim - 1))] = np.nan
        found += [(Examples(hole, y), "NaN"), (Examples(x[:, :-1], y), "where")]
    if kind == "regression":
        infinite = y.copy()
        infinite[2] = np.inf
        found += [(Examples(x, infinite), "infinity"), (Examples(x, y.astype(np.float64)), "float32")]
    else:
        found += [(Examples(x, y - 1), "-1"), (Examples(x, y + 1), "labels"), (Examples(x, y + 0.5), "whole")]
    return found


def test_data_that_do_not_fit_are_refused(row: Row) -> None:
    model, data = row.make(), row.data(4, 20)
    model.check(data, "fine")
    for bad, word in spoiled(data, model.kind):
        with pytest.raises(InvalidInput, match="where"):
            model.check(bad, "where")
        with pytest.raises(InvalidInput, match=word):
            model.check(bad, "where")


def test_a_vector_that_does_not_fit_is_refused(row: Row) -> None:
    model = row.make()
    with pytest.raises(InvalidInput):
        FittedModel(model, start_of(model)[:-1]).predict(row.data(1, 5).x)
