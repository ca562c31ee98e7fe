"""Bundles: one text each, signed, refused where anything in them is not what it seems; and what a reviewer is shown."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import manent as mn
from manent.core.canonical import canonical
from manent.core.errors import InvalidInput, NotAuthorized
from manent.crypto.identity import SigningKey
from manent.network.wire import bundle as module
from manent.network.wire.bundle import Bundle, difference
from manent.rounds.declared import rebuild, schema_of
from tests.privacy.studies import study

ADA, EVE = SigningKey(b"a" * 32), SigningKey(b"e" * 32)
SCHEMA = mn.Schema(shape=(4,), classes=3)
CODE = {"study.py": "import network\nstudy = 1\n", "network.py": "width = 8\n"}
PINS = ("torch==2.6.0", "numpy==2.1.3")
BUNDLE = Bundle.of(study(), SCHEMA, "heart", CODE, PINS)
SIGNED = BUNDLE.sign(ADA)


def test_a_bundle_travels_whole():
    found = Bundle.read(SIGNED.encode())
    assert found == SIGNED
    assert found.verify() == ADA.public.hex()
    assert rebuild(found.study).hash == study().hash == found.study_hash
    assert schema_of(found.schema) == SCHEMA
    assert (found.code, found.requirements, found.data) == (CODE, PINS, "heart")


def test_hashes_say_what_they_are_of():
    assert BUNDLE.hash == SIGNED.hash == Bundle.read(SIGNED.encode()).hash
    other_study = Bundle.of(study(rounds=9), SCHEMA, "heart", CODE, PINS)
    assert other_study.hash != BUNDLE.hash
    assert other_study.code_hash == BUNDLE.code_hash
    changes: list[dict[str, Any]] = [
        {"code": {**CODE, "network.py": "width = 9\n"}},
        {"code": {**CODE, "more.py": ""}},
        {"code": {"study.py": CODE["study.py"] + CODE["network.py"]}},
        {"requirements": PINS[:1]},
        {"requirements": PINS[::-1]},
    ]
    for change in changes:
        assert replace(BUNDLE, **change).code_hash != BUNDLE.code_hash
    changes += [{"data": "lungs"}, {"schema": module.to_plain(mn.Schema(shape=(4,), classes=4))}]
    hashes = {replace(BUNDLE, **change).hash for change in changes}
    assert len({*hashes, BUNDLE.hash}) == len(changes) + 1


def test_a_signature_holds_for_one_content_and_one_key():
    with pytest.raises(NotAuthorized, match="not signed"):
        BUNDLE.verify()
    for change in ({"data": "lungs"}, {"code": {"study.py": ""}}, {"requirements": ()}, {"study": study(rounds=9).to_plain()}):
        with pytest.raises(NotAuthorized, match="altered after it was signed"):
            replace(SIGNED, **change).verify()
    with pytest.raises(NotAuthorized, match="another key"):
        replace(SIGNED, researcher=EVE.public.hex()).verify()
    assert SIGNED.sign(EVE).verify() == EVE.public.hex()


def test_what_is_changed_after_it_was_made_is_not_in_it():
    code, plain = dict(CODE), study().to_plain()
    made = Bundle(plain, {}, "heart", code)
    before = made.hash
    code["evil.py"] = "x"
    plain["rounds"] = 9
    plain["layers"].clear()
    assert made.hash == before
    assert made.study["rounds"] == 3


def test_windows_line_ends_are_plain_ones():
    assert Bundle.of(study(), SCHEMA, "heart", {"study.py": "a\r\nb\r\n"}).code == {"study.py": "a\nb\n"}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a path": ({"code": {**CODE, "../x.py": ""}}, "without folders"),
    "a folder": ({"code": {**CODE, "a/x.py": ""}}, "without folders"),
    "a folder of Windows": ({"code": {**CODE, "a\\x.py": ""}}, "without folders"),
    "an absolute path": ({"code": {**CODE, "/etc/x.py": ""}}, "without folders"),
    "a hidden file": ({"code": {**CODE, ".x.py": ""}}, "without folders"),
    "a drive": ({"code": {**CODE, "c:x.py": ""}}, "without folders"),
    "compiled code": ({"code": {**CODE, "x.pyc": ""}}, "without folders"),
    "a library": ({"code": {**CODE, "x.so": ""}}, "without folders"),
    "a pickle": ({"code": {**CODE, "x.pkl": ""}}, "without folders"),
    "a name with a line end": ({"code": {**CODE, "x.py\n": ""}}, "without folders"),
    "no name": ({"code": {**CODE, "": ""}}, "without folders"),
    "a name of manent's": ({"code": {**CODE, "manent.py": ""}}, "not after manent"),
    "what runs at the start": ({"code": {**CODE, "SiteCustomize.py": ""}}, "not after manent"),
    "names that differ by capitals": ({"code": {**CODE, "Network.py": ""}}, "but for capitals"),
    "no beginning": ({"code": {"network.py": ""}}, "begins with study.py"),
    "too many files": ({"code": {"study.py": "", **{f"f{i}.py": "" for i in range(200)}}}, "at most 200 files"),
    "too much": ({"code": {"study.py": "x" * (module.MOST_BYTES)}}, "at most 8,388,608 bytes"),
    "bytes as code": ({"code": {"study.py": b"x"}}, "only plain data"),
    "a number as code": ({"code": {"study.py": 3}}, "is text"),
    "code as a list": ({"code": ["study.py"]}, "a bundle's code is a table|A bundle's code is a table"),
    "text turned around": ({"code": {"study.py": "ok = 1\nif user != 'admin\u202e': pass\n"}}, r"study.py, line 2: .*U\+202E"),
    "text without width": ({"code": {"study.py": "a\u200bb = 1"}}, r"U\+200B"),
    "a terminal's escape": ({"code": {"study.py": "# \x1b[2K harmless"}}, r"U\+001B"),
    "a bare carriage return": ({"code": {"study.py": "steal() #\rharmless = 1 "}}, r"U\+000D"),
    "a line end that editors do not show": ({"code": {"study.py": "# x\u2028steal()"}}, r"U\+2028"),
    "half a character": ({"code": {"study.py": "\ud800"}}, "only plain data"),
    "a range of versions": ({"requirements": ("numpy>=2",)}, "is pinned"),
    "no version": ({"requirements": ("numpy",)}, "is pinned"),
    "any version": ({"requirements": ("numpy==2.*",)}, "is pinned"),
    "an address": ({"requirements": ("numpy @ https://example.org/x.whl",)}, "is pinned"),
    "an option": ({"requirements": ("--index-url=https://example.org",)}, "is pinned"),
    "two lines": ({"requirements": ("numpy==2.1\n-r x",)}, "is pinned"),
    "a data set with a path": ({"data": "../heart"}, "A data set's name"),
    "no data set": ({"data": ""}, "A data set's name"),
    "not a number": ({"study": {"x": float("nan")}}, "only plain data"),
    "an object": ({"study": {"x": object()}}, "only plain data"),
    "a study that is none": ({"study": [1]}, "study is a table"),
    "a signature without a key": ({"signature": "0" * 128}, "or neither"),
    "a key without a signature": ({"researcher": "0" * 64}, "or neither"),
    "a short key": ({"researcher": "0" * 62, "signature": "0" * 128}, "64 hexadecimal digits"),
    "capitals in a key": ({"researcher": "A" * 64, "signature": "0" * 128}, "64 hexadecimal digits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name):
    changes, words = WRONG[name]
    with pytest.raises(InvalidInput, match=words):
        replace(BUNDLE, **changes)


def on_the_wire(changes: dict[str, Any]) -> bytes | None:
    """Bytes that say so, or None where no JSON does."""
    try:
        return json.dumps({**json.loads(BUNDLE.encode()), **changes}, sort_keys=True, separators=(",", ":")).encode()
    except TypeError:
        return None


@pytest.mark.parametrize("name", [name for name, (changes, _) in WRONG.items() if on_the_wire(changes) is not None])
def test_it_is_refused_on_the_wire_too(name):
    with pytest.raises(InvalidInput):
        Bundle.read(on_the_wire(WRONG[name][0]) or b"")


def text(**changes: Any) -> bytes:
    return canonical({**json.loads(SIGNED.encode()), **changes})


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"", "no bundle"),
        (b"\x80\x04]", "no bundle"),
        (b"PK\x03\x04", "no bundle"),
        (b"[" * 100_000, "no bundle"),
        (b"NaN", "no bundle"),
        (b"[]", "a table of format"),
        (b"{}", "a table of format"),
        (SIGNED.encode()[:-1], "no bundle"),
        (SIGNED.encode() + b"\n", "canonical form"),
        (b" " + SIGNED.encode(), "canonical form"),
        (json.dumps(json.loads(SIGNED.encode())).encode(), "canonical form"),
        (SIGNED.encode().replace(b'"data":"heart"', b'"data":"lungs","data":"heart"'), "canonical form"),
        (SIGNED.encode().replace(b"heart", b"\\u0068eart"), "canonical form"),
        (text(format="manent bundle 2"), "Expected the format"),
        (text(more=1), "a table of format"),
        (text(data=3), "data expects text"),
        (text(data={"a": 1}), "expects no table"),
        (text(requirements="numpy==2.1"), "requirements expects a list"),
        (text(study=json.loads("[" * 90 + "]" * 90)), "nested deeper"),
        (b"x" * (module.MOST_BYTES + 2000), "at most"),
    ],
)
def test_bytes_that_are_no_bundle_are_refused(encoded, words):
    with pytest.raises(InvalidInput, match=words):
        Bundle.read(encoded)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SIGNED.encode()) - 1), st.integers(0, 255))
def test_no_byte_can_be_changed_unseen(position, value):
    encoded = bytearray(SIGNED.encode())
    if encoded[position] == value:
        return
    encoded[position] = value
    with pytest.raises((InvalidInput, NotAuthorized)):
        Bundle.read(bytes(encoded)).verify()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b'{"format":1}')
def test_any_bytes_are_read_or_refused(encoded):
    with pytest.raises(InvalidInput):
        Bundle.read(encoded)


def test_a_review_shows_everything_of_a_new_bundle():
    shown = difference(None, BUNDLE)
    for line in ('+ data = "heart"', "+ study.rounds = 3", '+ requirements[0] = "torch==2.6.0"', "+++ network.py", "+width = 8"):
        assert line in shown.splitlines()


def test_a_review_shows_what_changed_and_nothing_else():
    assert difference(BUNDLE, SIGNED) == "No difference."
    code = {"study.py": CODE["study.py"], "other.py": "x = 1\n"}
    new = Bundle.of(study(rounds=5), SCHEMA, "lungs", code, PINS[:1])
    lines = difference(BUNDLE, new).splitlines()
    for line in ("- study.rounds = 3", "+ study.rounds = 5", '- data = "heart"', '+ data = "lungs"', "-width = 8", "+x = 1"):
        assert line in lines
    assert '- requirements[1] = "numpy==2.1.3"' in lines
    assert not any("study.name" in line or "import network" in line for line in lines)


def test_a_review_shows_what_cannot_be_seen():
    document = copy.deepcopy(study().to_plain())
    document["name"], document["\x1b[2K"] = "harmless \x1b[2K\u202e\x7f", {}
    shown = difference(None, Bundle(document, {}, "heart", {}))
    assert "\x1b" not in shown
    assert shown.isascii()
    assert "\x7f" not in shown
    assert r"\u001b[2K\u202e" in shown


A, B = {"a.b": 1}, {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"study": {"x": A}}, {"study": {"x": B}}),
        ({"study": {**A, **B}}, {"study": {**A, "a": {"b": 2}}}),
        ({"study": {"x": [3]}}, {"study": {"x": {"0": 3}}}),
        ({"study": {"x": []}}, {"study": {"x": {}}}),
        ({"study": {"x": "1"}}, {"study": {"x": 1}}),
        ({"study": {"x": True}}, {"study": {"x": 1}}),
        ({"study": {"x": None}}, {"study": {}}),
        ({"code": {"study.py": "x"}}, {"code": {"study.py": "x\n"}}),
        ({"code": {"study.py": ""}}, {"code": {}}),
        ({"code": {"study.py": "", "a.py": ""}}, {"code": {"study.py": ""}}),
        ({"schema": {"x": 1}}, {"schema": {"x": 2}}),
    ],
)
def test_two_bundles_of_other_hashes_are_never_shown_as_the_same(one, other):
    old, new = replace(BUNDLE, **one), replace(BUNDLE, **other)
    assert old.hash != new.hash
    assert difference(old, new) != "No difference." != difference(new, old)
    assert difference(old, old) == "No difference."


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "0", "a", "a.b"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "a.b", "0", "[0]", ""]), inner, max_size=2)
    ),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(PLAIN, PLAIN)
def test_only_equal_studies_are_shown_as_equal(one, other):
    old, new = (replace(BUNDLE, study={"x": value}) for value in (one, other))
    assert (difference(old, new) == "No difference.") == (old.hash == new.hash)
