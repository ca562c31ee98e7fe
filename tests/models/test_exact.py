"""Arithmetic that gives a row the same bits in every batch, beside rational numbers and beside torch in double precision."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from manent.core.examples import Examples
from manent.core.training.dpsgd import clip_factors
from manent.models.exact import EXACT, Factor, bits_for, rounded, squares


def rows_of(seed: int, shape: tuple[int, ...], spread: int) -> Any:
    """Numbers of very different size, some of them zero."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=shape) * 10.0 ** rng.integers(-spread, spread + 1, shape)
    return np.where(rng.random(shape) < 0.1, 0, numbers).astype(np.float32)


@pytest.mark.parametrize("bits", [1, 8, 21, 24])
@pytest.mark.parametrize("spread", [0, 3, 35])
def test_rows_are_rounded_to_the_nearest_multiple_of_their_unit(bits: int, spread: int) -> None:
    rows = rows_of(bits, (20, 9), spread)
    rows[3] = 0
    rows[4] = np.float32(1e-45)
    rows[5, 2] = np.inf
    found, finite = rounded(rows, bits)
    np.testing.assert_array_equal(finite, np.arange(20) != 5)
    assert not found[5].any()
    for row, numbers in zip(np.delete(rows, 5, 0), np.delete(found, 5, 0), strict=True):
        largest = max(abs(Fraction(float(v))) for v in row)
        unit = Fraction(1, 1 << bits)
        while unit * 2**bits <= largest:
            unit *= 2
        while largest and unit * 2**bits > 2 * largest:
            unit /= 2
        expected = [round(Fraction(float(v)) / unit) * unit for v in row]  # half to even, as IEEE
        assert [Fraction(float(v)) for v in numbers] == expected


@pytest.mark.parametrize("width", [0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1040, 8224])
def test_squares_of_a_row_are_right_and_the_same_among_any_others(width: int) -> None:
    rows = rows_of(width, (13, width), 4).astype(np.float64)
    found = squares(rows)
    for number, row in enumerate(rows):
        exact = sum(Fraction(float(v)) ** 2 for v in row)
        assert abs(Fraction(float(found[number])) - exact) <= exact * (width + 8) / 2**53
        for others in (rows[number : number + 1], rows[number : number + 2], rows[number::3]):
            assert squares(others)[0] == found[number]


def test_a_product_is_the_same_whatever_order_the_library_takes() -> None:
    """Sums of multiples of one unit: the terms from the last to the first, in one sum or in many, give the same bits."""
    matrix, rows = rows_of(1, (200, 6), 2), rows_of(2, (11, 200), 2)
    factor = Factor(matrix)
    found = factor.product(rows)
    np.testing.assert_allclose(
        found, rows.astype(np.float64) @ matrix.astype(np.float64), rtol=1e-4, atol=1e-5 * np.abs(found).max()
    )

    def otherwise(a: Any, b: Any, out: Any = None) -> Any:
        total = np.zeros((a.shape[0], b.shape[1]))
        for index in reversed(range(a.shape[1])):
            total += a[:, index, None] * b[index]
        return total

    np.testing.assert_array_equal(Factor(matrix, otherwise).product(rows), found)
    for number in range(11):
        np.testing.assert_array_equal(factor.product(rows[number : number + 1])[0], found[number])
    assert bits_for(200) == 22


CONVOLUTIONS = {
    "kernel beyond the stride": ((3, 3), (2, 2), (0, 0)),
    "stride beyond the kernel": ((2, 1), (3, 2), (1, 0)),
    "one pixel": ((1, 1), (1, 1), (0, 0)),
    "padded": ((5, 3), (1, 1), (2, 2)),
    "rows left over": ((4, 3), (3, 2), (1, 2)),
    "multiple": ((4, 4), (2, 2), (1, 1)),
}


def network_of(size: Any, stride: Any, padding: Any, bias: bool) -> Any:
    from torch import nn

    layers = [nn.Conv2d(2, 4, 3, padding=1, bias=bias), nn.Tanh(), nn.Conv2d(4, 5, size, stride, padding, bias=bias)]
    return nn.Sequential(*layers, nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_convolution_is_that_of_torch_and_each_row_by_itself(name: str, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    from manent.models.torch import TorchModel

    rng = np.random.default_rng(3)
    data = Examples(rng.normal(size=(21, 2, 11, 10)).astype(np.float32), rng.integers(0, 3, 21))
    network = network_of(*CONVOLUTIONS[name], bias)
    network(torch.from_numpy(data.x))
    model = TorchModel(network, "cross_entropy")
    assert model._clipped.chain is not None
    vector = model.init(rng)
    total, _ = model.clipped_gradient_sum(vector, data, 0.3)

    reference, expected = model.module(vector).double(), np.zeros(len(vector))
    for row in range(21):
        scores = reference(torch.from_numpy(data.x[row : row + 1]).double())
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(data.y[row : row + 1]))
        own = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(reference.parameters()))]).numpy()
        expected += own * clip_factors(np.array([own @ own]), 0.3)[0]
    np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-6)

    for row in (0, 7, 20):
        alone, _ = model.clipped_gradient_sum(vector, data[row : row + 1], 0.3)
        among = np.full_like(data.x, np.nan)
        among[row] = data.x[row]
        np.testing.assert_array_equal(model.clipped_gradient_sum(vector, Examples(among, data.y), 0.3)[0], alone)


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from manent.models import chain
    from manent.models.torch import TorchModel

    rng = np.random.default_rng(4)
    data = Examples(rng.normal(size=(30, 2, 11, 10)).astype(np.float32), rng.integers(0, 3, 30))
    network = network_of((3, 3), (2, 2), (1, 1), True)
    network(torch.from_numpy(data.x))
    model = TorchModel(network, "cross_entropy")
    vector = model.init(rng)
    monkeypatch.setattr(chain, "ROWS", 30)
    whole, _ = model.clipped_gradient_sum(vector, data, 0.3)
    for cached in (1, 10_000, 1 << 30):
        monkeypatch.setattr(chain, "CACHED", cached)
        np.testing.assert_array_equal(model.clipped_gradient_sum(vector, data, 0.3)[0], whole)


@pytest.mark.parametrize("terms", [1, 2, 3, 4, 5, 255, 256, 257, 784, 1 << 20, (1 << 20) + 1])
def test_the_most_bits_whose_products_sum_up_exactly(terms):
    bits = bits_for(terms)
    assert terms * 4**bits <= 2**EXACT
    next_power = 1 << max(terms - 1, 0).bit_length()
    assert next_power * 4 ** (bits + 1) > 2**EXACT
