"""What is pasted to join."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manent.core.errors import InvalidInput
from manent.network.trust.join import PREFIX, JoinToken

PIN, CONSORTIUM = "ab" * 32, "cd" * 32
TOKEN = JoinToken("https://fl.example:8443", "12" * 32, PIN, CONSORTIUM)
LINE = TOKEN.encode()


@pytest.mark.parametrize("pin", [PIN, None])
@pytest.mark.parametrize("consortium", [CONSORTIUM, None])
@pytest.mark.parametrize("url", ["https://fl.example:8443", "https://[::1]:1/base", "https://10.0.0.1"])
def test_it_comes_back_as_it_was(url, pin, consortium):
    token = JoinToken.create(url + "/", pin, consortium)
    assert (token.url, token.pin, token.consortium) == (url, pin, consortium)
    assert JoinToken.decode(token.encode()) == token
    assert token.consortium_public == (bytes.fromhex(CONSORTIUM) if consortium else None)


def test_secrets_are_new_and_not_shown():
    one, two = (JoinToken.create("https://a.example") for _ in range(2))
    assert one.secret != two.secret
    assert one.secret not in repr(one) + str(one)


@given(st.lists(st.integers(0, len(LINE)), max_size=6), st.sampled_from([" ", "\n", "\r\n", "\t", "\u00a0"]))
def test_spaces_and_line_breaks_do_not_matter(places, space):
    text = LINE
    for place in places:
        text = text[:place] + space + text[place:]
    assert JoinToken.decode(text) == TOKEN


@given(st.integers(0, len(LINE) - 1))
def test_one_that_was_cut_short_is_refused(length):
    with pytest.raises(InvalidInput):
        JoinToken.decode(LINE[:length])


@given(st.integers(0, len(LINE) - 1), st.characters(codec="utf-8"))
def test_one_that_was_altered_is_refused(place, other):
    text = LINE[:place] + other + LINE[place + 1 :]
    try:
        assert JoinToken.decode(text) == TOKEN  # the same character, or bits that base64 does not use
    except InvalidInput as error:
        assert TOKEN.secret not in str(error)  # noqa: PT017


@given(st.text(max_size=60) | st.text(max_size=60).map(lambda text: PREFIX + text))
def test_other_texts_are_no_tokens(text):
    with pytest.raises(InvalidInput, match="join token"):
        JoinToken.decode(text)


def test_a_gigantic_text_is_refused_at_once():
    with pytest.raises(InvalidInput, match="no join token"):
        JoinToken.decode(PREFIX + "A" * 10_000_000)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://a.example",
            "https://",
            "https:///x",
            "a.example",
            "https://u:p@a.example",
            "https://a.example?q=1",
            "file:///etc",
        ),
        *("https://a.example#f", "https://a.example:port", "https://a.example:0", "https://a.example:99999", "https://a example"),
        *("https://a.example/\n", "https://[::1", None, 3),
    ],
)
def test_urls_that_are_refused(url):
    with pytest.raises(InvalidInput, match="URL"):
        JoinToken(url, "12" * 32)


@pytest.mark.parametrize(
    "fields",
    [{"secret": s} for s in ("", "12" * 31, "G" * 64, None)] + [{"pin": "AB" * 32}, {"pin": "a"}, {"consortium": 5}],
)
def test_fields_that_are_refused(fields):
    with pytest.raises(InvalidInput):
        JoinToken(**{"url": "https://a.example", "secret": "12" * 32, **fields})
