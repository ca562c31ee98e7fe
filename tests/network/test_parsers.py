"""Whatever bytes come from outside are a value, or the error that is declared; and no few bytes take much memory."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.network.parsers import PARSERS, attempt, bounded, inputs


def head(table: dict) -> bytes:
    """A frame of which there is the head alone."""
    text = json.dumps(table).encode()
    return len(text).to_bytes(4, "little") + text


def safetensors(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


LARGE = 10**12
FALSE = {
    "frame": head({"arrays": [["x", "<f8", [LARGE]]]}),
    "handover": head({"name": "ward", "arrays": [["train.x", "<f4", [LARGE]], ["train.y", "<i8", [LARGE]]]}),
    "list: consents": b"\xff\xff\xff\xff",
    "list of messages": b"\xff\xff\xff\xff" + bytes(4000),
    "call": b"\x01\x01" + b"\xff" * 200,
    "arrays": safetensors('{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'),
    "model": safetensors('{"w":{"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'),
    "bundle": b"[" * 100_000,
    "roster": b'{"a":' * 50_000,
    "policy": b"a = " + b"[" * 50_000,
    "texts of a request": b'{"name": ' + b"9" * 50_000 + b"}",
}


EACH = pytest.mark.parametrize("name", PARSERS)


@EACH
def test_what_is_sound_is_taken(name):
    for valid in PARSERS[name].valid:
        assert attempt(PARSERS[name], valid)


@EACH
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_anything_else_is_taken_or_refused_as_is_declared(name, data):
    parser = PARSERS[name]
    given = data.draw(inputs(parser))
    attempt(parser, given)


@EACH
def test_nothing_is_allocated_on_the_word_of_a_few_bytes(name):
    """Every run of four and eight bytes of a sound input as the largest number: lengths and counts are among them."""
    parser = PARSERS[name]
    for valid in parser.valid:
        attempt(parser, valid)  # what is imported or cached once is not counted
        step = max(1, len(valid) // 40)
        for at in range(0, min(len(valid), 4000), step):
            for run in (b"\xff" * 4, b"\x7f" + b"\xff" * 7, b"9" * 12):
                with bounded():
                    attempt(parser, valid[:at] + run + valid[at + len(run) :])


@pytest.mark.parametrize("name", FALSE)
def test_a_false_length_is_refused_and_takes_nothing(name):
    attempt(PARSERS[name], PARSERS[name].valid[0])
    with bounded():
        assert not attempt(PARSERS[name], FALSE[name])
