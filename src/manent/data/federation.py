"""A federation: the clients and their data, the schema, and the test data of the server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from manent.core import validate
from manent.core.canonical import canonical, to_plain
from manent.core.errors import InvalidInput
from manent.core.examples import Client, Examples, Public, Schema, join
from manent.data.checks import check_schema, checked_client, checked_part, first_repeated
from manent.data.describe import Description, describe

Part = Literal["train", "test"]


@dataclass(frozen=True, eq=False, repr=False)
class Federation:
    """Clients with the same kind of data. A simulation runs on it; it is a `Population`.

    All data are checked against the schema. Rows that lack a value in a column with missing="drop" are left out.

    Attributes:
        clients: the holders of data, in a fixed order.
        schema: what each client's data look like.
        name: for people.
        test: public test examples that the server holds, or None.

    Raises InvalidInput for no client, equal names, a client without rows, types or shapes other than declared, missing or
    infinite values, labels out of range, and values outside a column's bounds or codes.
    """

    clients: tuple[Client, ...]
    schema: Schema
    name: str = "federation"
    test: Examples | None = None

    def __post_init__(self) -> None:
        check_schema(self.schema)
        clients = tuple(self.clients)
        if not clients:
            raise InvalidInput("A federation needs at least one client; found none.")
        twice = first_repeated([client.name for client in clients])
        if twice is not None:
            raise InvalidInput(f"Clients need unique names; {twice!r} occurs more than once. Rename or join them.")
        object.__setattr__(self, "clients", tuple(checked_client(client, self.schema) for client in clients))
        if self.test is not None:
            object.__setattr__(self, "test", checked_part(self.test, self.schema, "(the server's own)", "test"))

    def __len__(self) -> int:
        return len(self.clients)

    def __iter__(self) -> Iterator[Client]:
        return iter(self.clients)

    def __repr__(self) -> str:
        train = sum(len(client.train) for client in self.clients)
        test = sum(len(client.test) for client in self.clients if client.test is not None)
        held = "" if self.test is None else f", {len(self.test):,} held by the server"
        return f"<Federation {self.name}: {len(self):,} clients, {train:,} train and {test:,} test rows{held}>"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The clients' names, in order."""
        return tuple(client.name for client in self.clients)

    @property
    def public(self) -> Public:
        """What everyone may know: the schema, and how many clients there are."""
        return Public(self.schema, len(self.clients))

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """int64[clients], how many training rows each client has."""
        return np.array([len(client.train) for client in self.clients], np.int64)

    def client(self, name: str) -> Client:
        """The client of this name. Raises InvalidInput for an unknown name."""
        return self.subset([name]).clients[0]

    def subset(self, names: Iterable[str]) -> Federation:
        """A federation of only these clients, in this order. Raises InvalidInput for an unknown name."""
        known = {client.name: client for client in self.clients}
        wanted = list(names)
        unknown = [name for name in wanted if name not in known]
        if unknown:
            some = ", ".join(list(known)[:10]) + (", ..." if len(known) > 10 else "")
            raise InvalidInput(f"No client {unknown[0]!r} in {self.name}; it has {some}.")
        return replace(self, clients=tuple(known[name] for name in wanted))

    def pooled(self, part: Part = "train") -> Examples:
        """All clients' rows in one data set. Only a simulation can do this: in a deployment the data stay where they are.

        Args:
            part: "train"; or "test", for the test rows of the clients that have any.

        Raises InvalidInput for another part, and where no client has test rows.
        """
        validate.one_of("pooled", "part", part, ("train", "test"))
        parts = [client.train if part == "train" else client.test for client in self.clients]
        held = [data for data in parts if data is not None]
        if not held:
            raise InvalidInput(
                f"No client of {self.name} has test rows. Build it with test_fraction > 0, or use `federation.test`."
            )
        return join(held)

    def describe(self) -> Description:
        """Sizes, labels, base rates, and how much clients differ: what a person who plans a study needs to know.

        It prints as a table, and `.plot(path)` draws it. It reads every client's rows, so only a simulation can do this.
        """
        return describe(self.name, self.clients, self.schema)

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the schema, the clients' names and every byte of data. Equal only for equal data."""
        digest = hashlib.sha256(canonical(to_plain(self.schema)))
        for client in self.clients:
            for part, data in (("train", client.train), ("test", client.test)):
                _feed(digest, f"{client.name}/{part}", data)
        _feed(digest, "server", self.test)
        return digest.hexdigest()


def _feed(digest: hashlib._Hash, label: str, data: Examples | None) -> None:
    arrays = {} if data is None else {"x": data.x, "y": data.y, **{f"column {n}": c for n, c in sorted(data.columns.items())}}
    for name, array in arrays.items():
        head = f"{len(label)}:{label} {len(name)}:{name} {array.dtype.str} {array.shape};"
        digest.update(head.encode())
        digest.update(np.ascontiguousarray(array).data)
