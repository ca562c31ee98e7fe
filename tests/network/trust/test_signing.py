"""Signed requests: what is taken, what is refused, and that each counts once."""

from __future__ import annotations

import threading
from base64 import b64encode, urlsafe_b64decode
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256, sha512

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manent.core.errors import InvalidInput, NotAuthorized
from manent.crypto import SigningKey
from manent.storage import MemoryStore, open_store

httpx = pytest.importorskip("httpx")
rfc9421 = pytest.importorskip("http_message_signatures")

from manent.network.trust import signing  # noqa: E402
from manent.network.trust.signing import TAG, Signed, Verifier, content_digest, received, sign_request  # noqa: E402

NOW = 1_800_000_000
A, B, STRANGER = (SigningKey(bytes([n] * 32)) for n in (1, 2, 3))
KEYS = {key.public.hex(): key.public for key in (A, B)}
URL = "https://fl.example:8443/rounds/3/uploads?sum=train&attempt=1"
BODY = b"a vector"
DIGEST = sha256(BODY).digest()
PROFILE = ("@method", "@target-uri", "content-digest")


class Clock:
    """Seconds, as the tests set them."""

    def __init__(self, now=NOW):
        self.now = now

    def __call__(self):
        return self.now


def verifier(store=None, clock=None, **options):
    return Verifier(KEYS.get, store or MemoryStore(), clock=clock or Clock(), **options)


def request(key=A, method="POST", url=URL, body=BODY, headers=None, now=NOW):
    made = httpx.Request(method, url, content=body, headers=headers)
    sign_request(made, key, now)
    return made


def verified(by, made, body=None, **instead):
    """The key id; the request's own parts where none is given instead."""
    parts = {"method": made.method, "url": str(made.url), "headers": made.headers.multi_items(), **instead}
    return by.verify(**parts, body_digest=sha256(made.content if body is None else body).digest())


class Library(rfc9421.HTTPSignatureKeyResolver):
    """Any key under any key id."""

    def __init__(self, key):
        self.key = key

    def resolve_private_key(self, key_id):
        return self.key


class Unchecked(rfc9421.ContentDigest):
    """Signs whatever stands in the header."""

    @classmethod
    def prepare(cls, headers, body, *, use_existing_digest):
        pass


def forged(key=A, keyid=None, covered=PROFILE, nonce="n" * 16, tag=TAG, created=NOW, headers=None, digest=None, **options):
    """A request as somebody else's program might sign it, with a member's key."""
    made = httpx.Request("POST", URL, content=BODY, headers=headers)
    made.headers["content-digest"] = content_digest(DIGEST) if digest is None else digest
    signer = rfc9421.HTTPMessageSigner(signature_algorithm=signing._Ed25519, key_resolver=Library(key))
    signer.content_digest_class = Unchecked
    options = {"label": "manent", "nonce": nonce, "tag": tag, "created": at(created), **options}
    signer.sign(made, key_id=key.public.hex() if keyid is None else keyid, covered_component_ids=covered, **options)
    return made


def at(seconds):
    return datetime.fromtimestamp(seconds, UTC)


# What is taken.


@pytest.mark.parametrize("key", [A, B])
@pytest.mark.parametrize("body", [b"", BODY, bytes(range(256)) * 100])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_a_member_is_known_by_its_signature(key, body, method):
    headers = {"Content-Type": "application/x", "Manent-Version": "1", "X-Other": "y"}
    assert verified(verifier(), request(key, method, body=body, headers=headers)) == key.public.hex()


@pytest.mark.parametrize(
    "url",
    ["https://fl.example", "https://fl.example/", "https://FL.example:443/a", "https://[::1]:8/a", "https://fl.example/a%2Fb/c%20d",
     "https://fl.example/a b/å?q=ü&x=%41#part", "https://fl.example/?", "https://fl.example/a//b/../c?x=1&x=2", "https://fl.example/'()"],
)  # fmt: skip
def test_urls_are_signed_as_they_are_sent(url):
    assert verified(verifier(), request(url=url)) == A.public.hex()


def test_the_narrow_profile_is_not_the_only_one_taken():
    """Another signer may order components otherwise, cover more, name the target in parts, and name the algorithm."""
    orders = (
        PROFILE,
        PROFILE[::-1],
        ("@authority", "@path", "@query", "content-digest", "@method"),
        (*PROFILE, "user-agent", "@scheme"),
    )
    for number, covered in enumerate(orders):
        made = forged(
            covered=covered, nonce=f"{number:016}", headers={"User-Agent": "x"}, include_alg=bool(number % 2), label="sig1"
        )
        assert verified(verifier(), made) == A.public.hex()


def test_a_request_is_signed_anew_and_not_twice():
    made = request()
    first = dict(made.headers)
    by = verifier()
    verified(by, made)
    sign_request(made, B, NOW + 1)
    assert verified(by, made) == B.public.hex()
    assert first["content-digest"] == made.headers["content-digest"]
    assert first["signature"] != made.headers["signature"]


def test_a_streamed_body_counts_when_its_hash_is_known():
    made = httpx.Request("PUT", URL, content=iter([BODY[:3], BODY[3:]]))
    with pytest.raises(InvalidInput, match="streamed"):
        sign_request(made, A, NOW)
    sign_request(made, A, NOW, body_digest=DIGEST)
    by = verifier()
    signed = by.examine(made.method, str(made.url), made.headers)
    by.spend(signed)
    assert (signed.keyid, signed.body_digest, signed.created) == (A.public.hex(), DIGEST, NOW)
    signed.check_body(DIGEST)
    with pytest.raises(NotAuthorized, match="body"):
        signed.check_body(sha256(b"another").digest())
    with pytest.raises(NotAuthorized, match="seen before"):
        by.spend(by.examine(made.method, str(made.url), made.headers))


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33)])
def test_a_digest_that_is_none_is_not_signed(digest):
    with pytest.raises(InvalidInput, match="32 bytes"):
        sign_request(httpx.Request("GET", URL), A, NOW, body_digest=digest)


@pytest.mark.parametrize("part", [{"headers": {"Manent-Name": b"\xe5"}}, {"url": "https://fl.example/a|b"}, {"url": "/rounds"}])
def test_what_cannot_be_signed_is_said(part):
    with pytest.raises(InvalidInput, match="cannot be signed"):
        sign_request(httpx.Request(**{"method": "GET", "url": URL, **part}), A, NOW)


# The published vectors.

RFC_KEY = SigningKey(urlsafe_b64decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU="))
RFC_BODY = b'{"hello": "world"}'
RFC_INPUT = (
    'sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"'
)
RFC_SIGNATURE = "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:"
RFC_HEADERS = {
    "Host": "example.com",
    "Date": "Tue, 20 Apr 2021 02:07:55 GMT",
    "Content-Type": "application/json",
    "Content-Digest": f"sha-512=:{b64encode(sha512(RFC_BODY).digest()).decode()}:",
    "Content-Length": "18",
}


def rfc_message(**changes):
    headers = {**RFC_HEADERS, "Signature-Input": RFC_INPUT, "Signature": RFC_SIGNATURE, **changes}
    return signing._message("POST", "https://example.com/foo?param=Value&Pet=dog", headers)


def test_the_ed25519_vector_of_rfc_9421_is_verified():
    """Appendix B.2.6, by what `Verifier` uses: the library's parser and base, this project's keys and clock."""
    assert RFC_KEY.public == urlsafe_b64decode("JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs=")
    by = Verifier({"test-key-ed25519": RFC_KEY.public}.get, MemoryStore(), clock=Clock(1618884480))
    covered, parameters = by._checked(rfc_message())
    assert dict(parameters) == {"created": 1618884473, "keyid": "test-key-ed25519"}
    assert covered['"date"'] == "Tue, 20 Apr 2021 02:07:55 GMT"
    base = "\n".join(f"{name}: {value}" for name, value in covered.items()).encode()
    assert b64encode(RFC_KEY.sign(base)).decode() in RFC_SIGNATURE
    for change in (
        {"Date": "Tue, 20 Apr 2021 02:07:56 GMT"},
        {"Content-Length": "19"},
        {"Signature-Input": RFC_INPUT.replace("73;", "74;")},
    ):
        with pytest.raises(NotAuthorized, match="does not hold"):
            by._checked(rfc_message(**change))


def test_a_signature_that_is_sound_by_the_rfc_alone_is_not_enough():
    """The vector covers neither the body nor the query, and has no nonce."""
    by = Verifier({"test-key-ed25519": RFC_KEY.public}.get, MemoryStore(), clock=Clock(1618884480))
    message = rfc_message()
    with pytest.raises(NotAuthorized, match="does not cover 'content-digest, @query'"):
        by.verify("POST", message.url, message.headers, sha256(RFC_BODY).digest())


def test_the_content_digests_of_the_rfcs():
    """RFC 9421, section 2.5, and RFC 9530, appendix D."""
    assert content_digest(sha256(RFC_BODY).digest()) == "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:"
    assert content_digest(sha256(RFC_BODY + b"\n").digest()) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


# What is refused. Each is followed by the request as it was, which must still be taken: no copy of it uses up its nonce.

SHA512 = f"sha-512=:{b64encode(sha512(BODY).digest()).decode()}:"
OTHER_DIGEST = content_digest(sha256(b"another").digest())


def changed(made, name, value):
    return [(known, value if known == name else old) for known, old in made.headers.multi_items()]


def edit(name, old, new):
    """A header with one text in it replaced by another."""
    return lambda made: {"headers": changed(made, name, made.headers[name].replace(old, new))}


def put(name, value):
    """A header with another value."""
    return lambda made: {"headers": changed(made, name, value)}


def without(name):
    return lambda made: {"headers": [header for header in made.headers.multi_items() if header[0] != name]}


def more(name, value):
    """One header line more."""
    return lambda made: {"headers": [*made.headers.multi_items(), (name, value)]}


def both(text):
    """Signature and its input with something behind them."""
    return lambda made: {
        "headers": [
            (n, v + text.replace("V", v.split("=", 1)[1]) if n.startswith("sig") else v) for n, v in made.headers.multi_items()
        ]
    }


def give(**parts):
    """Other parts than the request's."""
    return lambda made: parts


INPUT = "signature-input"
ALTERED = {
    "another method": (give(method="PUT"), "does not hold"),
    "a method in lower case": (give(method="post"), "uppercase"),
    "another path": (give(url=URL.replace("/3/", "/4/")), "does not hold"),
    "another query": (give(url=URL.replace("attempt=1", "attempt=2")), "does not hold"),
    "another host": (give(url=URL.replace("fl.", "evil.")), "does not hold"),
    "another port": (give(url=URL.replace("8443", "8444")), "does not hold"),
    "plain http": (give(url=URL.replace("https", "http")), "does not hold"),
    "a URL that is none": (give(url="/rounds/3"), "URL"),
    "a URL with a line end": (give(url=URL + "\n"), "URL"),
    "a gigantic URL": (give(url=URL + "a" * 9000), "characters"),
    "another body": (give(body=b"b vector"), "body is not"),
    "no body": (give(body=b""), "body is not"),
    "another body and its digest": (lambda m: {**put("content-digest", OTHER_DIGEST)(m), "body": b"another"}, "does not hold"),
    "no headers": (give(headers=[]), "missing"),
    "no content-digest": (without("content-digest"), "content-digest is missing"),
    "no signature": (without("signature"), "signature is missing"),
    "no signature-input": (without(INPUT), "input is missing"),
    "a digest twice": (more("Content-Digest", OTHER_DIGEST), "twice"),
    "a body header twice": (more("content-type", "application/y"), "twice"),
    "a second signature line": (more("Signature", "other=:AAAA:"), "twice"),
    "a second signature": (both(", other=V"), "Multiple"),
    "the same label twice": (both(", manent=V"), "Malformed"),
    "an unsigned header of ours": (more("Manent-Attempt", "2"), "cover 'manent-attempt"),
    "an unsigned encoding": (more("Content-Encoding", "gzip"), "cover 'content-encoding"),
    "an unsigned range": (more("Content-Range", "bytes 0-1/2"), "cover 'content-range"),
    "an altered type": (put("content-type", "application/y"), "does not hold"),
    "components in another order": (edit(INPUT, '"@method" "@target-uri"', '"@target-uri" "@method"'), "does not hold"),
    "a component left out": (edit(INPUT, ' "content-digest"', ""), "does not hold"),
    "a component twice": (edit(INPUT, '"@method"', '"@method" "@method"'), "multiple times"),
    "a later time": (edit(INPUT, str(NOW), str(NOW + 9)), "does not hold"),
    "another nonce": (edit(INPUT, 'nonce="', 'nonce="0'), "does not hold"),
    "another site's key id": (edit(INPUT, A.public.hex(), B.public.hex()), "does not hold"),
    "an unknown key id": (edit(INPUT, A.public.hex(), STRANGER.public.hex()), "key"),
    "a gigantic input": (edit(INPUT, ";", ";x=1" * 10**5 + ";"), "more than 4,096"),
    "a gigantic signature": (put("signature", "a=:" + "A" * 4_000_000 + ":"), "more than 4,096"),
    "a gigantic digest": (put("content-digest", "sha-256=:" + "A" * 10**6), "more than 4,096"),
    "a gigantic header of ours": (more("Manent-X", "x" * 10**6), "more than 4,096"),
    "a signature that is text": (put("signature", 'manent="abc"'), "Byte Sequence"),
    "a signature of one byte": (put("signature", "manent=:AA==:"), "does not hold"),
    "an empty signature": (put("signature", "manent=::"), "does not hold"),
    "an input that is no list": (put(INPUT, "manent=1"), "Inner List"),
    "a name in upper case": (edit(INPUT, "content-digest", "Content-Digest"), "lowercase"),
    "other alphabets": (put("content-type", "\u0430\u0301\x00\ud800"), "signed as it should be"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_request_is_refused_and_the_true_one_is_taken(case):
    alter, reason = ALTERED[case]
    by, made = verifier(), request(headers={"Content-Type": "application/x"})
    with pytest.raises(NotAuthorized, match=reason) as found:
        verified(by, made, **alter(made))
    assert len(str(found.value)) < 500
    assert str(found.value).isascii()
    assert verified(by, made) == A.public.hex()


FORGED = {
    "no digest covered": ({"covered": ("@method", "@target-uri")}, "does not cover 'content-digest'"),
    "no method covered": ({"covered": ("content-digest", "@target-uri")}, "does not cover '@method'"),
    "no target covered": ({"covered": ("content-digest", "@method")}, "does not cover '@authority, @path, @query'"),
    "a part of the target covered": ({"covered": ("content-digest", "@method", "@path", "@query")}, "cover '@authority'"),
    "nothing covered": ({"covered": ()}, "does not cover"),
    "a part of the digest covered": ({"covered": (*PROFILE[:2], '"content-digest";key="sha-256"')}, "cover 'content-digest'"),
    "an own header not covered": ({"headers": {"Manent-Offset": "5"}}, "does not cover 'manent-offset'"),
    "a type not covered": ({"headers": {"Content-Type": "x/y"}}, "does not cover 'content-type'"),
    "no nonce": ({"nonce": None}, "nonce"),
    "a short nonce": ({"nonce": "n" * 15}, "nonce"),
    "a long nonce": ({"nonce": "n" * 65}, "nonce"),
    "a nonce with spaces": ({"nonce": "n " * 10}, "nonce"),
    "no tag": ({"tag": None}, "purpose"),
    "another tag": ({"tag": "manent-2"}, "purpose"),
    "another algorithm's digest": ({"digest": SHA512}, "one SHA-256"),
    "two digests": ({"digest": f"{content_digest(DIGEST)}, {SHA512}"}, "one SHA-256"),
    "two digests of one kind": ({"digest": f"{content_digest(DIGEST)}, {OTHER_DIGEST}"}, "one SHA-256"),
    "an old digest": ({"digest": "md5=:AAAAAAAAAAAAAAAAAAAAAA==:"}, "one SHA-256"),
    "a short digest": ({"digest": "sha-256=:AAAA:"}, "one SHA-256"),
    "a digest that is text": ({"digest": f'sha-256="{b64encode(DIGEST).decode()}"'}, "one SHA-256"),
    "a digest with parameters": ({"digest": content_digest(DIGEST) + ";x=1"}, "one SHA-256"),
    "another site's key id": ({"keyid": B.public.hex()}, "does not hold"),
    "a stranger": ({"key": STRANGER}, "key"),
    "a stranger under a member's id": ({"key": STRANGER, "keyid": A.public.hex()}, "does not hold"),
    "an empty key id": ({"keyid": ""}, "key"),
    "an unknown component": ({"covered": (*PROFILE, "x-absent"), "headers": {"X-Absent": "1"}, "drop": "x-absent"}, "not found"),
}


@pytest.mark.parametrize("case", FORGED)
def test_what_a_key_signs_beside_the_profile_is_refused(case):
    options, reason = FORGED[case]
    options = dict(options)
    drop = options.pop("drop", None)
    made = forged(**options)
    if drop:
        del made.headers[drop]
    by = verifier()
    with pytest.raises(NotAuthorized, match=reason):
        verified(by, made)
    with by._together.store.snapshot() as view:
        assert view.keys() == []


def test_an_expiry_or_an_unknown_parameter_is_refused():
    with pytest.raises(NotAuthorized, match="expires"):
        verified(verifier(), forged(expires=at(NOW + 9)))
    made = forged()
    made.headers["signature-input"] += ";extra=1"
    with pytest.raises(NotAuthorized, match="parameter"):
        verified(verifier(), made)


@pytest.mark.parametrize(("old", "new"), [("ed25519", "hmac-sha256"), ("ed25519", "rsa-v1_5-sha256"), ('"ed25519"', "1")])
def test_the_algorithm_is_not_the_senders_choice(old, new):
    made = request()
    made.headers["signature-input"] = made.headers["signature-input"].replace(
        f"alg={old}" if old[0] == '"' else old, f"alg={new}" if old[0] == '"' else new
    )
    with pytest.raises(NotAuthorized):
        verified(verifier(), made)


def test_a_key_of_low_order_signs_nothing_even_where_it_was_let_in():
    """Without a check of the key, this signature would hold for every message."""
    low = bytes([1, *bytes(31)])
    made = request()
    made.headers["signature-input"] = made.headers["signature-input"].replace(A.public.hex(), low.hex())
    made.headers["signature"] = f"manent=:{b64encode(bytes([1, *bytes(63)])).decode()}:"
    with pytest.raises(NotAuthorized, match="does not hold"):
        verified(Verifier({low.hex(): low}.get, MemoryStore(), clock=Clock()), made)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), b"\xff" * 32])
def test_a_key_that_is_none_signs_nothing(key):
    with pytest.raises(NotAuthorized):
        verified(Verifier({A.public.hex(): key}.get, MemoryStore(), clock=Clock()), request())


@pytest.mark.parametrize("name", ["signature", "signature-input", "content-digest"])
def test_every_truncation_is_refused(name):
    made = request()
    by, whole = verifier(), made.headers[name]
    for length in range(len(whole)):
        with pytest.raises(NotAuthorized):
            verified(by, made, headers=changed(made, name, whole[:length]))
    assert verified(by, made)


# Time.


@pytest.mark.parametrize(
    ("age", "taken"), [(0, True), (360, True), (361, False), (10**6, False), (-60, True), (-61, False), (-(10**9), False)]
)
def test_a_signature_counts_for_five_minutes_and_clocks_may_differ_by_one(age, taken):
    made = request(now=NOW - age)
    if taken:
        assert verified(verifier(), made)
    else:
        with pytest.raises(NotAuthorized, match="ago" if age > 0 else "future"):
            verified(verifier(), made)


def test_both_are_settings():
    by = verifier(max_age=10, skew=0)
    assert verified(by, request(now=NOW - 10))
    for age in (11, -1):
        with pytest.raises(NotAuthorized):
            verified(by, request(now=NOW - age))
    assert verified(verifier(max_age=86400, skew=3600), request(now=NOW - 80_000))


@pytest.mark.parametrize("created", [0, -1, 10**14])
def test_impossible_times_are_refused(created):
    made = request()
    made.headers["signature-input"] = made.headers["signature-input"].replace(str(NOW), str(created))
    with pytest.raises(NotAuthorized, match="ago|future"):
        verified(verifier(), made)


def test_a_time_is_required_and_whole():
    whole = request().headers["signature-input"]
    for wrong in (f"created={NOW}.5", 'created="now"', "created", "", f"created={'9' * 15}"):
        made = request()
        made.headers["signature-input"] = whole.replace(f"created={NOW};", f"{wrong};" if wrong else "")
        with pytest.raises(NotAuthorized):
            verified(verifier(), made)


# Replays.


def test_a_request_counts_once():
    by, made = verifier(), request()
    assert verified(by, made)
    for _ in range(3):
        with pytest.raises(NotAuthorized, match="seen before"):
            verified(by, made)
    assert verified(by, request())


def test_a_nonce_counts_once_whatever_the_time_and_the_label():
    clock = Clock()
    by = verifier(clock=clock)
    assert verified(by, forged())
    for created in range(NOW - 300, NOW + 60, 30):
        with pytest.raises(NotAuthorized, match="seen before"):
            verified(by, forged(created=created, label=f"l{created}"))
    assert verified(by, forged(key=B))


@given(st.integers(-60, 360), st.integers(0, 420), st.integers(0, 10**6))
def test_no_replay_is_taken_at_any_time(age, later, phase):
    """Whichever buckets the times fall into: it is known, or too old."""
    clock = Clock(NOW + phase)
    by = verifier(clock=clock)
    made = request(now=clock.now - age)
    verified(by, made)
    clock.now += later
    with pytest.raises(NotAuthorized, match="seen before|ago"):
        verified(by, made)


def test_a_replay_is_known_after_a_restart(tmp_path):
    made = request()
    store = open_store(tmp_path / "server.db")
    assert verified(verifier(store), made)
    store.close()
    store = open_store(tmp_path / "server.db")
    with pytest.raises(NotAuthorized, match="seen before"):
        verified(verifier(store), made)
    store.close()


def test_of_many_copies_at_once_one_is_taken(tmp_path):
    made, outcomes = request(), []
    by = [verifier(open_store(tmp_path / "server.db")) for _ in range(2)]
    ready = threading.Barrier(8)

    def send(which):
        ready.wait()
        try:
            outcomes.append(verified(which, made))
        except NotAuthorized as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=send, args=(by[n % 2],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[:1] == [A.public.hex()] or outcomes.count(A.public.hex()) == 1
    assert sum("seen before" in outcome for outcome in outcomes) == 7
    for each in by:
        each._together.store.close()


def test_a_nonce_is_used_up_with_what_the_request_did_or_not_at_all():
    store = MemoryStore()
    by, made = verifier(store), request()
    signed = by.examine(made.method, str(made.url), made.headers)

    def fails():
        with store.transaction() as t:
            by.spend(signed, t)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    with store.transaction() as t:
        t.put("effect", b"1")
        by.spend(signed, t)
    with pytest.raises(NotAuthorized, match="seen before"), store.transaction() as t:
        by.spend(signed, t)


def test_a_body_that_came_too_late_to_be_remembered_is_not_taken():
    """Examined in time, used up an hour later: by then its nonce might have been forgotten."""
    clock = Clock()
    by, made = verifier(clock=clock), request()
    signed = by.examine(made.method, str(made.url), made.headers)
    clock.now += 3600
    with pytest.raises(NotAuthorized, match="ago"):
        by.spend(signed)


def test_no_key_fills_the_store():
    clock, store = Clock(), MemoryStore()
    by = Verifier({}.get, store, clock=clock, most=50)
    for n in range(50):
        by.spend(Signed("k", clock.now, f"{n:016}", DIGEST))
    for n in range(50, 200):
        with pytest.raises(NotAuthorized, match="no site needs as many"):
            by.spend(Signed("k", clock.now, f"{n:016}", DIGEST))
    with store.snapshot() as view:
        assert len(view.keys("nonce/")) == 50 + 1
    by.spend(Signed("another", clock.now, "x" * 16, DIGEST))
    clock.now += 600
    by.spend(Signed("k", clock.now, "x" * 16, DIGEST))


def test_expired_nonces_are_forgotten_and_the_store_stays_small():
    clock, store = Clock(), MemoryStore()
    by = verifier(store, clock)
    with store.transaction() as t:
        t.put("nonce-of-somebody-else", b"kept")
    most = 0
    for second in range(6000):  # one request a second
        clock.now = NOW + second
        by.spend(Signed("k", clock.now, f"{second:016}", DIGEST))
        if second % 50 == 0:
            with store.snapshot() as view:
                most = max(most, len(view.keys("nonce/")))
    assert 300 < most <= 360 + 2 * 600 + 3  # and how many they are, for each key and ten minutes
    clock.now += 10_000
    restarted = verifier(store, clock)
    restarted.spend(Signed("k", clock.now, "x" * 16, DIGEST))
    with store.snapshot() as view:
        assert len(view.keys("nonce/")) == 1 + 1
        assert view.get("nonce-of-somebody-else") == b"kept"


def test_the_store_is_swept_once_in_a_while_and_not_at_every_request():
    swept = []

    class Counting(MemoryStore):
        @contextmanager
        def transaction(self):
            with super().transaction() as t:
                keys = t.keys
                t.keys = lambda prefix="": swept.append(prefix) or keys(prefix)
                yield t

    clock = Clock()
    by = verifier(Counting(), clock)
    for second in range(1200):
        clock.now = NOW + second
        by.spend(Signed("k", clock.now, f"{second:016}", DIGEST))
    assert swept == ["nonce/"] * 3


# Anything at all.

TEXT = st.text(max_size=80)
NAMES = st.sampled_from(["signature", "Signature-Input", "content-digest", "Content-Type", "manent-x", "host", "cookie"]) | TEXT
KEYWORDS = [
    *(
        "manent=",
        "(",
        ")",
        '"@method"',
        '"@target-uri"',
        '"content-digest"',
        ";",
        "created=",
        'keyid="',
        '"',
        "nonce=",
        ":",
        "AAAA",
    ),
    *(",", "?1", "-", "1.5", "sha-256=:", "=", "*", "@", "%", ";req", ";bs", ";sf", ';key="a"', '"@query-param"', '"@status"'),
    '"@signature-params"',
]
PIECES = st.lists(st.sampled_from([*KEYWORDS, str(NOW), A.public.hex(), " ", "\x00", "\u00e9", "\ud800"]), max_size=25).map(
    "".join
)


@settings(max_examples=400)
@given(
    st.sampled_from(["POST", "GET", "post", "", "\n"]) | TEXT,
    st.sampled_from([URL, "https://[", "https://a/%zz"]) | TEXT,
    st.lists(st.tuples(NAMES, TEXT | PIECES), max_size=6),
    st.tuples(PIECES, PIECES, PIECES) | st.none(),
)
def test_nothing_but_not_authorized_leaves_the_verifier(method, url, headers, three):
    if three is not None:
        headers = [*headers, *zip(("signature-input", "signature", "content-digest"), three, strict=True)]
    with pytest.raises(NotAuthorized):
        verifier().verify(method, url, headers, DIGEST)


@settings(max_examples=400)
@given(st.sampled_from(["signature", "signature-input", "content-digest", "content-type"]), st.data())
def test_no_change_of_a_sound_request_breaks_it_open(name, data):
    """A piece replaced anywhere: refused, or (a label, a space) no change of what was signed; and nothing else is raised."""
    made = request(headers={"Content-Type": "application/x"})
    whole = made.headers[name]
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 12)))
    altered = whole[:start] + data.draw(PIECES | st.text(max_size=3)) + whole[stop:]
    try:
        assert verified(verifier(), made, headers=changed(made, name, altered)) == A.public.hex()
    except NotAuthorized:
        return
    kept = ("signature", "content-type")  # base64 has spare bits; spaces around a value do not count
    assert (
        altered.strip() == whole
        or name in kept[:1]
        or (name == "signature-input" and altered.split("=", 1)[1].strip() == whole.split("=", 1)[1])
    )


def test_what_fails_at_the_server_is_not_the_requests_fault():
    class Broken(MemoryStore):
        def transaction(self):
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        verified(verifier(Broken()), request())


# As it comes from an ASGI server.


def scope(made, host=None, **changes):
    headers = [(n.encode().title(), v.encode("latin-1")) for n, v in made.headers.multi_items() if n != "host" or host is None]
    headers += [(b"host", host.encode())] if host is not None else []
    path, _, query = made.url.raw_path.partition(b"?")
    return {
        "type": "http",
        "method": made.method,
        "headers": headers,
        "raw_path": path,
        "path": "/decoded",
        "query_string": query,
        **changes,
    }


ORIGINS = ["https://fl.example:8443", "https://10.0.0.1", "https://proxied.example/base/"]


@pytest.mark.parametrize(
    "url",
    [URL, "https://10.0.0.1/a%2Fb?x=%20y", "https://10.0.0.1:443/", "https://fl.example:8443/å/(c)", "https://FL.example:8443/a"],
)
def test_a_request_is_verified_as_the_server_received_it(url):
    made = request(url=url)
    method, found, headers = received(scope(made), ORIGINS)
    assert verifier().verify(method, found, headers, DIGEST) == A.public.hex()


def test_behind_a_proxy_that_takes_a_prefix_off():
    made = request(url="https://proxied.example/base/rounds/1")
    seen = scope(made, raw_path=b"/rounds/1")
    assert verifier().verify(*received(seen, ORIGINS), DIGEST) == A.public.hex()


def test_what_was_signed_for_another_server_is_refused():
    """Though it names that server in its Host header, and the signature holds."""
    made = request(url="https://elsewhere.example/rounds/1")
    assert verified(verifier(), made)
    with pytest.raises(NotAuthorized, match="is for the host 'elsewhere.example'"):
        received(scope(made), ORIGINS)
    with pytest.raises(NotAuthorized, match="does not hold"):
        verifier().verify(*received(scope(made, host="10.0.0.1"), ORIGINS), DIGEST)


@pytest.mark.parametrize("host", ["", "fl.example", "fl.example:8443, evil", "fl.example:8443\x00", "\xe9"])
def test_hosts_that_are_refused(host):
    with pytest.raises(NotAuthorized, match="host"):
        received(scope(request(), host=host), ORIGINS)


def test_a_scope_without_a_host_or_with_two_is_refused():
    made = request()
    plain = scope(made)
    for hosts in ([], [(b"host", b"fl.example:8443")] * 2):
        plain["headers"] = [h for h in scope(made)["headers"] if h[0].lower() != b"host"] + hosts
        with pytest.raises(NotAuthorized, match="host"):
            received(plain, ORIGINS)
