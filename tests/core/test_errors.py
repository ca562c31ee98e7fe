"""One tree of errors, which survives the way from one process to another."""

from __future__ import annotations

import copy

import pytest

from manent.core import errors
from manent.core.errors import ClientFailed, ManentError, MissingExtra

EXAMPLES = [
    ManentError("a"),
    errors.InvalidInput("b"),
    MissingExtra("torch", "torch", "TorchModel"),
    ClientFailed("Basel", 3, "train", "it diverged", "runs/1/failures"),
]


def test_every_error_is_in_the_tree():
    own = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(own) == 8
    assert all(issubclass(e, ManentError) for e in own)


def test_messages_say_what_to_do():
    assert "pip install 'manent[torch]'" in str(EXAMPLES[2])
    text = str(EXAMPLES[3])
    assert all(part in text for part in ("'Basel'", "round 3", "'train'", "it diverged", "runs/1/failures"))
    assert "kept" not in str(ClientFailed("Basel", 3, "train", "it diverged"))


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_an_error_can_be_copied(error):
    """Copying takes the same road as sending to another process, where an error that cannot be rebuilt hangs a pool."""
    again = copy.copy(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
