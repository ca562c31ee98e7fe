"""The reference by itself: it says what the frozen vectors say, and its sums are plain sums."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from . import make_vectors as frozen
from . import reference as ref

FILES = sorted(frozen.FOLDER.glob("*.json"))
NAMES = [path.stem for path in FILES]


def loaded(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((frozen.FOLDER / f"{name}.json").read_text())
    return content


def call_from(content: dict[str, Any]) -> ref.Call:
    fields = dict(content["parameters"])
    for what in ("study", "model", "beacon"):
        fields[what] = bytes.fromhex(fields[what])
    return ref.Call(**fields | {"terms": ref.Terms(**fields["terms"]), "roster": tuple(map(bytes.fromhex, fields["roster"]))})


def client_from(call: ref.Call, position: int, inputs: dict[str, Any]) -> ref.Client:
    """A client from what the file says of it, and nothing else."""
    secrets = [bytes.fromhex(inputs[what]) for what in ("root", "own_seed", "channel")]
    polynomials = [tuple(int(number, 16) for number in inputs[f"{what}_coefficients"]) for what in ("seed", "root")]
    encapsulated = [
        {
            int(v): ref.Encapsulated(bytes.fromhex(e["secret"]), bytes.fromhex(e["ciphertext"]))
            for v, e in inputs.get(what, {}).items()
        }
        for what in ("for_channel", "for_mask")
    ]
    identity = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(inputs["identity"]))
    return ref.Client(call, position, identity, ref.Chance(*secrets, *polynomials, *encapsulated))


def test_there_is_a_file_for_each_suite_adversary_and_graph():
    assert sorted(NAMES) == sorted(
        f"{s}-{a}-{g}" for s in (1, 2, 3) for a in ("curious", "active") for g in ("complete", "regular")
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("phase", frozen.PHASES)
def test_the_reference_says_what_is_frozen(name, phase):
    content = loaded(name)
    call = call_from(content)
    clients = {p: client_from(call, p, inputs) for p, inputs in enumerate(content["clients"])}
    vectors = [inputs["vector"] for inputs in content["clients"]]
    found = frozen.written(frozen.transcript(clients, vectors, phase), call.terms.suite == ref.HYBRID)

    expected = content["common"] | content["vanishes_before"][phase]
    if phase == "shares":
        expected["shares"] = {p: message for p, message in expected["shares"].items() if p != str(frozen.VANISHING)}
    assert found == expected

    there = [p for p in clients if p != frozen.VANISHING or phase in ("nobody", "consent")]
    assert found["sum"] == [sum(vectors[p][j] for p in there) for j in range(call.terms.d)]
    derived = content["derived"]
    assert [call.roster_root.hex(), call.seed.hex(), call.context.hex()] == [
        derived[w] for w in ("roster_root", "seed", "context")
    ]
    assert ref.draw_cohort(len(call.roster), call.seed, call.terms.n) == derived["cohort"]


@pytest.mark.parametrize("name", NAMES)
def test_the_script_writes_the_files_that_are_there(name):
    assert frozen.whole(name, loaded(name)) == loaded(name)


# Laws


@given(st.binary(max_size=80), st.integers(1, 200))
def test_derive_is_hkdf(secret, length):
    library = HKDF(SHA256(), length, salt=b"", info=ref.digest("label", b"a", b"bc")).derive(secret)
    assert ref.derive(secret, "label", b"a", b"bc", length=length) == library


def test_a_digest_tells_its_parts_apart():
    found = {ref.digest(*parts) for parts in [("ab",), ("a", b"b"), ("a", b"", b"b"), ("a", b"b", b""), ("", b"ab")]}
    assert len(found) == 5
    spelt = b"\x00\x01a" + b"\x00\x00\x00\x02bc"
    assert ref.digest("a", b"bc") == hashlib.sha256(spelt).digest()


@given(st.integers(0, ref.PRIME - 1), st.lists(st.integers(0, ref.PRIME - 1), min_size=0, max_size=4))
@settings(max_examples=30)
def test_any_t_shares_give_the_secret(secret, coefficients):
    text, t = secret.to_bytes(32, "big"), len(coefficients) + 1
    shares = ref.shares_of(text, coefficients, [0, 3, 4, 9, 17, 2**32 - 1])
    for held in combinations(shares, t):
        assert ref.combine({p: shares[p] for p in held}) == text


def test_fewer_than_t_shares_do_not_give_the_secret():
    shares = ref.shares_of(bytes(31) + b"\x07", [5, 6], [0, 1, 2])
    assert ref.combine({p: shares[p] for p in (0, 1)}) != bytes(31) + b"\x07"


@given(st.integers(1, 64), st.data())
def test_what_is_packed_is_unpacked(b, data):
    numbers = data.draw(st.lists(st.integers(0, 2**b - 1), max_size=20))
    packed = ref.pack(numbers, b)
    assert len(packed) == -(-len(numbers) * b // 8)
    assert ref.unpack(packed, len(numbers), b) == numbers


def test_packing_starts_with_the_lowest_bit():
    assert ref.pack([1, 2, 4], 3) == bytes([0b00_010_001, 0b1]), "4 = 0b100 spills its top bit into the second byte"


@pytest.mark.parametrize(
    ("suite", "start"),
    [(1, "dc95c078a2408989ad48a21492842087"), (2, "76b8e0ada0f13d90405d6ae55386bd28"), (3, "dc95c078a2408989ad48a21492842087")],
)
def test_masks_are_the_published_streams(suite, start):
    """AES-256 of the zero block under the zero key (H of test case 13 of the GCM proposal), and RFC 8439, A.1, vector 1."""
    for b, width in ((1, 2), (16, 2), (17, 4), (32, 4), (33, 8), (64, 8)):
        lanes = ref.mask(suite, bytes(32), 16 // width, b)
        assert b"".join(lane.to_bytes(width, "little") for lane in lanes).hex() == start


def test_cohorts_are_uniform_and_nested():
    first = Counter(ref.draw_cohort(5, i.to_bytes(32, "big"), 1)[0] for i in range(2000))
    assert all(abs(first[j] - 400) < 100 for j in range(5)), "five standard deviations are 90"
    whole = ref.draw_cohort(1000, bytes(32), 1000)
    assert sorted(whole) == list(range(1000))
    assert ref.draw_cohort(1000, bytes(32), 17) == whole[:17]


@pytest.mark.parametrize(("n", "k"), [(5, 4), (8, 4), (8, 2), (3, 2), (2, 1), (9, 8)])
def test_graphs_are_regular_and_mutual(n, k):
    terms = replace(frozen.call_of("1-active-regular").terms, n=n, k=k)
    call = replace(frozen.call_of("1-active-regular"), terms=terms)
    for p in range(n):
        near = call.neighbours(p)
        assert len(set(near)) == len(near) == k
        assert p not in near
        assert all(p in call.neighbours(v) for v in near)


# Refusals of the reference's client: what it accepts must mean something when the package is held against it.


def advertised(name: str = "1-active-complete") -> tuple[dict[int, ref.Client], ref.Server]:
    content = loaded(name)
    clients = {p: client_from(call_from(content), p, inputs) for p, inputs in enumerate(content["clients"])}
    return clients, ref.Server(clients[0].call, {p: client.advertise() for p, client in clients.items()})


def shared(name: str = "1-active-complete") -> tuple[dict[int, ref.Client], ref.Server]:
    clients, server = advertised(name)
    server.shares = {p: client.share(server.directory(p)) for p, client in clients.items()}
    return clients, server


@pytest.mark.parametrize("where", [0, 3, 4, 5, 40, 45, 80, 200])
def test_a_directory_with_a_changed_bit_is_refused(where):
    clients, server = advertised()
    message = bytearray(server.directory(0))
    message[where] ^= 1
    with pytest.raises((ref.Refused, InvalidSignature)):
        clients[0].share(bytes(message))


def test_a_directory_of_another_length_is_refused():
    clients, server = advertised()
    message = server.directory(0)
    for other in (message[:-1], message + b"\0", message[:20]):
        with pytest.raises(ref.Refused):
            clients[0].share(other)


def test_too_few_in_the_directory_are_refused():
    clients, server = advertised()
    server.adverts = {p: server.adverts[p] for p in (0, 1, 2)}
    with pytest.raises(ref.Refused, match="too few"):
        clients[0].share(server.directory(0))


def test_a_delivery_from_another_is_refused():
    clients, server = shared()
    server.shares[1], server.shares[3] = server.shares[3], server.shares[1]
    server.shares = {p: message for p, message in server.shares.items() if p != 2}
    with pytest.raises((ref.Refused, InvalidTag, KeyError)):
        clients[0].upload(server.deliveries(0), [0] * 5)


def test_consents_to_another_list_are_refused():
    clients, server = shared()
    server.uploads = {p: client.upload(server.deliveries(p), [0] * 5) for p, client in clients.items()}
    everybody = server.survivors()
    server.consents = {p: clients[p].consent(everybody) for p in clients}
    server.uploads.pop(4)
    clients[0].consent(server.survivors())
    with pytest.raises((ref.Refused, InvalidSignature)):
        clients[0].reveal(server.consents_for(0))


def test_a_sum_needs_t_shares_of_who_vanished():
    clients, server = shared()
    server.uploads = {p: clients[p].upload(server.deliveries(p), [1] * 5) for p in range(4)}
    server.consents = {p: clients[p].consent(server.survivors()) for p in range(4)}
    server.reveals = {p: clients[p].reveal(server.consents_for(p)) for p in range(4)}
    assert server.total() == [4] * 5
    server.reveals.pop(1)
    with pytest.raises(ref.Refused, match="too few shares"):
        server.total()
