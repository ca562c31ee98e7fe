"""Every module of torch.nn in private training: exact, or refused by name. A new one in torch adds one row to LAYERS.

Exact means that an example's gradient has the same bits whatever other rows are there and wherever it stands: the clipped sum is
the sum of the clipped sums of the rows alone, up to the rounding of a sum in float64.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from manent.core.errors import InvalidInput, Refused  # noqa: E402
from manent.core.examples import Examples  # noqa: E402
from manent.core.training.dpsgd import SUM_SLACK  # noqa: E402
from manent.models import TorchModel  # noqa: E402
from manent.models.torch import seeded  # noqa: E402

ROWS, CLIP = 7, 0.05
VECTOR, TEXT, SIGNAL, PICTURE, SOLID = (6,), (5, 6), (4, 8), (4, 8, 8), (4, 4, 4, 4)
Call = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Layer:
    """One module: how it is made, the shape of a row, how it is called, and why it is refused."""

    make: Callable[[], Any]
    shape: tuple[int, ...]
    call: Call = lambda layer, x: layer(x)
    refused: str | None = None
    codes: bool = False


def first(layer: Any, x: Any) -> Any:
    return layer(x)[0]


def twice(layer: Any, x: Any) -> Any:
    return layer(x, torch.flip(x, (1,)))


def attention(layer: Any, x: Any) -> Any:
    return layer(x, x, x)[0]


def unpool(layer: Any, x: Any) -> Any:
    pool = {3: functional.max_pool1d, 4: functional.max_pool2d, 5: functional.max_pool3d}[x.dim()]
    return layer(*pool(x, 2, return_indices=True))


def per_axes(name: str, *given: Any, **settings: Any) -> dict[str, Layer]:
    """The rows of a module that exists for 1, 2 and 3 axes."""
    shapes = {"1d": SIGNAL, "2d": PICTURE, "3d": SOLID}
    return {
        name + axes: Layer(partial(getattr(nn, name + axes), *given), shape, **settings)
        for axes, shape in shapes.items()
        if hasattr(nn, name + axes)
    }


def plain(*names: str, shape: tuple[int, ...] = VECTOR, given: tuple[Any, ...] = ()) -> dict[str, Layer]:
    return {name: Layer(partial(getattr(nn, name), *given), shape) for name in names}


MIXES = "mixes the examples of a batch"
LAYERS: dict[str, Layer] = {
    **plain(
        "CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid",
        "Mish", "PReLU", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh",
        "Tanhshrink", "Dropout", "AlphaDropout", "Flatten",
    ),
    **plain("Softmax", "Softmin", "LogSoftmax", given=(1,)),
    **plain("LayerNorm", "RMSNorm", given=(6,)),
    **plain("Dropout1d", shape=SIGNAL),
    **plain("Dropout2d", "Softmax2d", shape=PICTURE),
    **plain("UpsamplingBilinear2d", "UpsamplingNearest2d", shape=PICTURE, given=(None, 2)),
    **plain("Dropout3d", "FeatureAlphaDropout", shape=SOLID),
    **per_axes("AdaptiveAvgPool", 2),
    **per_axes("AdaptiveMaxPool", 2),
    **per_axes("AvgPool", 2),
    **per_axes("MaxPool", 2),
    **per_axes("LPPool", 2.0, 2),
    **per_axes("MaxUnpool", 2, call=unpool),
    **per_axes("BatchNorm", 4, refused=MIXES),
    **per_axes("InstanceNorm", 4),
    **per_axes("Conv", 4, 3, 3),
    **per_axes("ConvTranspose", 4, 3, 3),
    **{name: row for pad in ("Circular", "Reflection", "Replication", "Zero") for name, row in per_axes(f"{pad}Pad", 1).items()},
    **per_axes("ConstantPad", 1, 0.5),
    **per_axes("LazyBatchNorm", refused=MIXES),
    "AdaptiveLogSoftmaxWithLoss": Layer(lambda: nn.AdaptiveLogSoftmaxWithLoss(6, 8, [3]), VECTOR, lambda m, x: m.log_prob(x)),
    "Bilinear": Layer(lambda: nn.Bilinear(6, 6, 4), VECTOR, twice),
    "ChannelShuffle": Layer(lambda: nn.ChannelShuffle(2), PICTURE),
    "CosineSimilarity": Layer(lambda: nn.CosineSimilarity(1), TEXT, lambda m, x: m(x, torch.flip(x, (1,)))),
    "CrossMapLRN2d": Layer(lambda: nn.CrossMapLRN2d(2), PICTURE),
    "DataParallel": Layer(lambda: nn.DataParallel(nn.Sequential(nn.Linear(6, 6), nn.Dropout())), VECTOR),
    "Embedding": Layer(lambda: nn.Embedding(9, 4, padding_idx=1), (5,), codes=True),
    "EmbeddingBag": Layer(lambda: nn.EmbeddingBag(9, 4), (5,), codes=True),
    "Fold": Layer(lambda: nn.Fold((4, 4), 2, stride=2), (8, 4)),
    "FractionalMaxPool2d": Layer(lambda: nn.FractionalMaxPool2d(2, output_ratio=0.5), PICTURE),
    "FractionalMaxPool3d": Layer(lambda: nn.FractionalMaxPool3d(2, output_ratio=0.5), SOLID),
    "GroupNorm": Layer(lambda: nn.GroupNorm(2, 4), PICTURE),
    "GRU": Layer(lambda: nn.GRU(6, 4, 2, batch_first=True, dropout=0.5), TEXT, first),
    "LSTM": Layer(lambda: nn.LSTM(6, 4, 2, batch_first=True, dropout=0.5, bidirectional=True), TEXT, first),
    "RNN": Layer(lambda: nn.RNN(6, 4, 2, batch_first=True, dropout=0.5), TEXT, first),
    "GRUCell": Layer(lambda: nn.GRUCell(6, 4), VECTOR),
    "RNNCell": Layer(lambda: nn.RNNCell(6, 4), VECTOR),
    "LSTMCell": Layer(lambda: nn.LSTMCell(6, 4), VECTOR, first),
    "Linear": Layer(lambda: nn.Linear(6, 5), VECTOR),
    "LocalResponseNorm": Layer(lambda: nn.LocalResponseNorm(2), PICTURE),
    "MultiheadAttention": Layer(lambda: nn.MultiheadAttention(6, 2, dropout=0.5, batch_first=True), TEXT, attention),
    "PairwiseDistance": Layer(lambda: nn.PairwiseDistance(), TEXT, twice),
    "PixelShuffle": Layer(lambda: nn.PixelShuffle(2), PICTURE),
    "PixelUnshuffle": Layer(lambda: nn.PixelUnshuffle(2), PICTURE),
    "SyncBatchNorm": Layer(lambda: nn.SyncBatchNorm(4), SIGNAL, refused=MIXES),
    "Threshold": Layer(lambda: nn.Threshold(0.1, 0.2), VECTOR),
    "Transformer": Layer(lambda: nn.Transformer(6, 2, 1, 1, 8, 0.5, batch_first=True), TEXT, twice),
    "TransformerDecoder": Layer(
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 2, 8, 0.5, batch_first=True), 1), TEXT, twice
    ),
    "TransformerDecoderLayer": Layer(lambda: nn.TransformerDecoderLayer(6, 2, 8, 0.5, batch_first=True), TEXT, twice),
    "TransformerEncoder": Layer(
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, 0.5, batch_first=True), 1), TEXT
    ),
    "TransformerEncoderLayer": Layer(lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.5, batch_first=True), TEXT),
    "Unflatten": Layer(lambda: nn.Unflatten(1, (2, 3)), VECTOR),
    "Unfold": Layer(lambda: nn.Unfold(2), PICTURE),
    "Upsample": Layer(lambda: nn.Upsample(scale_factor=2, mode="bilinear"), PICTURE),
}  # fmt: skip
LAYERS["LazyLinear"] = Layer(lambda: nn.LazyLinear(5), VECTOR)
for name in ("LazyConv", "LazyConvTranspose"):
    LAYERS.update(per_axes(name, 3, 3))
LAYERS.update(per_axes("LazyInstanceNorm", refused=MIXES))

BESIDE = {
    "Container", "Module", "ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "RNNBase", "RNNCellBase", "Sequential",
}  # fmt: skip
"""What holds other modules, or is the base of some."""


class Around(nn.Module):
    """A layer between weights, so that gradients pass through it."""

    def __init__(self, row: Layer) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.row, self.layer = [row.call], row.make()
        self.before = nn.Parameter(torch.ones(()))
        with torch.no_grad():
            x = torch.zeros((2, *row.shape), dtype=torch.int64) if row.codes else torch.ones(2, *row.shape)
            size = row.call(self.layer.eval(), x).reshape(2, -1).shape[1]
        self.last = nn.Linear(size, 3)

    def forward(self, x: Any) -> Any:
        inner = x if x.dtype == torch.int64 else x * self.before
        return self.last(self.row[0](self.layer, inner).reshape(len(x), -1))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def data_of(shape: tuple[int, ...], codes: bool) -> Examples:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, ROWS)
    if codes:
        return Examples(rng.integers(0, 9, (ROWS, *shape)), y)
    x = rng.standard_normal((ROWS, *shape), dtype=np.float32)
    x[1] *= 1e4
    x[2] *= 1e-4
    x[4], y[4] = x[3], y[3]  # an example that is there twice
    return Examples(x, y)


def summed(model: TorchModel, vector: Any, data: Examples) -> Any:
    with seeded(5):  # the key of the pass
        return model.clipped_gradient_sum(vector, data, CLIP)[0]


def check_exact(model: TorchModel, vector: Any, data: Examples) -> None:
    whole = summed(model, vector, data)
    assert np.abs(whole).max() > 0
    alone = [summed(model, vector, data[row : row + 1]) for row in range(len(data))]
    assert all(np.linalg.norm(one) <= CLIP * (1 + SUM_SLACK) for one in alone)
    np.testing.assert_allclose(whole, sum(alone), rtol=0, atol=1e-13 * CLIP * len(data))
    order = np.random.default_rng(2).permutation(len(data))
    np.testing.assert_allclose(summed(model, vector, data[order]), whole, rtol=0, atol=1e-13 * CLIP * len(data))
    for left_out in (0, 3, len(data) - 1):
        rest = np.delete(np.arange(len(data)), left_out)
        assert np.linalg.norm(whole - summed(model, vector, data[rest])) <= CLIP * (1 + SUM_SLACK)


def test_every_module_of_torch_has_a_row() -> None:
    modules = {name for name, kind in vars(nn).items() if inspect.isclass(kind) and issubclass(kind, nn.Module)}
    losses = {name for name in modules if "Loss" in name}
    assert modules - losses - BESIDE - set(LAYERS) == set()


@pytest.mark.parametrize("name", LAYERS)
def test_a_module_is_exact_or_refused_by_name(name: str) -> None:
    row = LAYERS[name]
    if name.startswith("Lazy"):
        with pytest.raises(InvalidInput, match="lazy layers"):
            TorchModel(nn.Sequential(row.make(), nn.Linear(6, 3)), "cross_entropy", initial="given")
    model = TorchModel(Around(row), "cross_entropy", classes=3, initial="given")
    data = data_of(row.shape, row.codes)
    vector = model.init(np.random.default_rng(0))
    if row.refused:
        with pytest.raises(Refused, match=f"'layer' is {name.removeprefix('Lazy')}, which {row.refused}"):
            model.check_private()
        with pytest.raises(Refused, match=row.refused):
            summed(model, vector, data)
        return
    model.check_private()
    check_exact(model, vector, data)


class Drawing(nn.Module):
    """Draws without a layer that says so."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inner, self.last = how, nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        h = self.inner(x)
        if self.how == "F.dropout":
            h = functional.dropout(h, 0.5, self.training)
        elif self.how == "torch.rand":
            h = h * torch.rand(h.shape)
        elif self.how == "bernoulli":
            h = h * torch.bernoulli(torch.full_like(h, 0.5))
        elif self.how == "in place":
            h = h + torch.empty_like(h).normal_()
        elif self.how == "multinomial":
            h = h[:, torch.multinomial(torch.ones(5), 5)]
        elif self.how == "batch_norm":
            h = functional.batch_norm(h, None, None, training=True) if len(h) > 1 else h
        elif self.how == "gumbel":
            h = functional.gumbel_softmax(h)
        return self.last(h)


@pytest.mark.parametrize("how", ["F.dropout", "torch.rand", "bernoulli", "in place", "multinomial", "batch_norm", "gumbel"])
def test_what_a_forward_draws_itself_follows_the_example(how: str) -> None:
    model = TorchModel(Drawing(how), "cross_entropy", initial="given")
    check_exact(model, model.init(np.random.default_rng(0)), data_of(VECTOR, False))


def parametrized(kind: str) -> nn.Module:
    layer = nn.Linear(6, 5)
    made = {
        "spectral_norm": nn.utils.parametrizations.spectral_norm,
        "weight_norm": nn.utils.parametrizations.weight_norm,
        "orthogonal": nn.utils.parametrizations.orthogonal,
    }[kind](layer)
    return nn.Sequential(made, nn.Dropout(), nn.Linear(5, 3))


@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm", "orthogonal"])
def test_parametrizations_are_put_back_after_each_example(kind: str) -> None:
    torch.manual_seed(0)
    model = TorchModel(parametrized(kind), "cross_entropy", initial="given")
    check_exact(model, model.init(np.random.default_rng(0)), data_of(VECTOR, False))
