"""A site's own data, by the function that its operator names."""

from __future__ import annotations

from collections.abc import Callable, Collection
from inspect import signature

from manent.app.study.file import load_names
from manent.core.errors import InvalidInput
from manent.core.examples import Client
from manent.network.sandbox.handover import as_client


def loader(text: str, data_sets: Collection[str] = ()) -> Callable[[str], Client]:
    """The function that "FILE.py:NAME" names, wrapped: called with a data set's name, it returns a client.

    A function without a parameter serves one data set; one with a parameter is given the data set's name.

    Args:
        data_sets: names of the data sets that studies may ask for.

    Raises InvalidInput where there is no such function, and for one without a parameter where there are several data sets.
    """
    path, _, name = text.rpartition(":")
    if not path or not name.isidentifier():
        raise InvalidInput(f"--data expects FILE.py:NAME, such as load.py:load; found {text!r}.")
    (function,) = load_names(path, (name,))
    if not callable(function):
        raise InvalidInput(f"{name} in {path} is no function; it should return this site's data.")
    named = bool(signature(function).parameters)
    if not named and len(data_sets) > 1:
        raise InvalidInput(
            f"The policy has several data sets ({', '.join(data_sets)}), but {name} in {path} has no parameter for a data set's "
            f"name. Write `def {name}(data): ...`, which returns the data set of that name."
        )

    def load(data: str) -> Client:
        """The client that holds a data set, by the data set's name."""
        return as_client(function(data) if named else function())

    return load
