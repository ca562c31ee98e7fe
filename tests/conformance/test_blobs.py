"""Blobs and uploads in parts, one row a place."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from hashlib import sha256

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import manent as mn
from manent.storage import Blobs, Parts
from tests.storage import s3

pytest.importorskip("obstore")

PLACES = ["folder", "memory", "bucket"]
DATA = random.Random(1).randbytes(20_000_003)  # more than two of the stretches in which a bucket is written
DIGEST = sha256(DATA).hexdigest()


def pieces(data, size=1_000_003):
    return [data[at : at + size] for at in range(0, len(data), size)]


def whole(blobs, digest, *given):
    return b"".join(blobs.read(digest, *given))


@pytest.fixture(scope="module")
def service():
    with s3.served() as found:
        yield found


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """What Blobs is given."""
    kind = request.param
    if kind != "bucket":
        return tmp_path / "blobs" if kind == "folder" else "memory://"
    address, objects, uploads = request.getfixturevalue("service")
    objects.clear()
    uploads.clear()
    values = {"AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
    for name, value in {**values, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        monkeypatch.setenv(name, value)
    return "s3://bucket/some/where"


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)
lasting = pytest.mark.parametrize("place", ["folder", "bucket"], indirect=True)


def elsewhere(place, code):
    text = f"from manent.storage import Blobs, Parts\nblobs = Blobs({str(place)!r})\nparts = Parts(blobs)\n{code}"
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


@everywhere
def test_what_is_put_comes_back_by_its_digest(place):
    blobs = Blobs(place)
    assert blobs.put(pieces(DATA)) == DIGEST
    assert blobs.put([], sha256().hexdigest()) == sha256().hexdigest()
    assert blobs.put(iter([b"", b"ab", b"c"]), sha256(b"abc").hexdigest(), most=3) == sha256(b"abc").hexdigest()
    assert blobs.put(pieces(DATA, 17_000_000), DIGEST) == DIGEST  # again
    assert (blobs.size(DIGEST), blobs.size(sha256().hexdigest())) == (len(DATA), 0)
    assert whole(blobs, DIGEST) == DATA
    assert whole(blobs, sha256().hexdigest()) == b""
    assert sorted(blobs.digests()) == sorted([DIGEST, sha256().hexdigest(), sha256(b"abc").hexdigest()])
    blobs.verify(DIGEST)


@everywhere
def test_ranges_are_what_slices_are(place):
    blobs = Blobs(place)
    blobs.put([DATA])
    for start, stop, chunk in ((0, 1, 1), (5, 5, 1), (8_388_600, 8_388_700, 7), (123, None, 9_000_000), (len(DATA), None, 10)):
        found = list(blobs.read(DIGEST, start, stop, chunk))
        assert b"".join(found) == DATA[start:stop]
        assert all(0 < len(piece) <= chunk for piece in found)
    for wrong in ((-1, 3), (5, 4), (0, len(DATA) + 1), (len(DATA) + 1, None), (0, 5, 0)):
        with pytest.raises(mn.InvalidInput, match="range"):
            blobs.read(DIGEST, *wrong)


@everywhere
def test_another_digest_or_too_many_bytes_are_refused_and_nothing_is_left(place, tmp_path):
    blobs = Blobs(place)
    with pytest.raises(mn.InvalidInput, match="digest"):
        blobs.put(pieces(DATA), sha256(b"other").hexdigest())
    with pytest.raises(mn.InvalidInput, match="At most"):
        blobs.put(pieces(DATA), DIGEST, most=len(DATA) - 1)

    def endless():
        while True:
            yield bytes(1 << 16)

    with pytest.raises(mn.InvalidInput, match="At most"):
        blobs.put(endless(), most=10_000_000)

    def breaks():
        yield DATA[:5_000_000]
        raise ConnectionError("the sender is gone")

    with pytest.raises(ConnectionError):
        blobs.put(breaks())
    assert list(blobs._place.names()) in ([], ["unfinished", "uploads"], ["uploads", "unfinished"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@everywhere
def test_what_is_not_there_says_so(place):
    blobs = Blobs(place)
    for ask in (blobs.size, blobs.read, blobs.verify):
        with pytest.raises(mn.InvalidInput, match="no blob"):
            ask(DIGEST)
    blobs.remove(DIGEST)
    blobs.put([b"abc"])
    blobs.remove(sha256(b"abc").hexdigest())
    with pytest.raises(mn.InvalidInput, match="no blob"):
        blobs.size(sha256(b"abc").hexdigest())


@everywhere
@pytest.mark.parametrize(
    "digest",
    [
        "",
        "../" * 20 + "etc/passwd",
        "a" * 63,
        "A" * 64,
        "a" * 63 + "/",
        "a" * 64 + "\n",
        "/" + "a" * 63,
        "uploads",
        None,
        b"a" * 64,
    ],
)
def test_only_a_digest_is_a_name(place, digest):
    blobs = Blobs(place)
    parts = Parts(blobs)
    parts.append("upload", 0, [b"abc"])
    for ask in (blobs.size, blobs.read, blobs.verify, blobs.remove, lambda name: parts.finish("upload", name)):
        with pytest.raises(mn.InvalidInput, match="64 hexadecimal"):
            ask(digest)
    if digest is not None:
        with pytest.raises(mn.InvalidInput, match="64 hexadecimal"):
            blobs.put([b"abc"], digest)
    assert parts.length("upload") == 3


@everywhere
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=12), min_size=1, max_size=3, unique=True))
def test_an_upload_may_have_any_name(place, names):
    blobs = Blobs(place)
    parts = Parts(blobs)
    for name in [*names, "../../escape", "a/b", "\0", "x" * 5_000, "\ud800"]:
        parts.discard(name)
        assert (parts.length(name), parts.append(name, 0, [b"abc"])) == (0, 3)
        assert parts.finish(name, sha256(b"abc").hexdigest()) == sha256(b"abc").hexdigest()
    assert list(blobs.digests()) == [sha256(b"abc").hexdigest()]


@everywhere
def test_an_upload_goes_on_where_it_stands(place):
    blobs = Blobs(place)
    parts = Parts(blobs)
    assert parts.append("upload", 0, pieces(DATA[:9_000_000])) == 9_000_000 == parts.length("upload")
    for wrong in (0, 8_999_999, 9_000_001):
        with pytest.raises(mn.InvalidInput, match="stands at 9000000"):
            parts.append("upload", wrong, [b"abc"])

    def breaks():
        yield DATA[9_000_000:18_500_000]
        raise ConnectionError("the link is lost")

    with pytest.raises(ConnectionError):
        parts.append("upload", 9_000_000, breaks())
    assert parts.length("upload") == 18_500_000  # what had come before is kept
    with pytest.raises(mn.InvalidInput, match="no blob"):
        blobs.size(DIGEST)
    parts = Parts(Blobs(place)) if place != "memory://" else parts
    assert parts.append("upload", 18_500_000, [b"", DATA[18_500_000:]]) == len(DATA)
    assert parts.finish("upload", DIGEST) == DIGEST
    blobs.verify(DIGEST)
    assert parts.length("upload") == 0
    with pytest.raises(mn.InvalidInput, match="Nothing"):
        parts.finish("upload", DIGEST)


@everywhere
def test_an_upload_of_another_content_is_discarded(place):
    blobs = Blobs(place)
    parts = Parts(blobs)
    parts.append("upload", 0, [b"abd"])
    parts.append("other", 0, [b"kept"])
    with pytest.raises(mn.InvalidInput, match="discarded"):
        parts.finish("upload", sha256(b"abc").hexdigest())
    assert (list(blobs.digests()), parts.length("upload"), parts.length("other")) == ([], 0, 4)
    assert parts.append("upload", 0, [b"abc"]) == 3
    assert parts.finish("upload", sha256(b"abc").hexdigest())
    parts.discard("other")
    assert parts.length("other") == 0


@everywhere
def test_an_upload_has_its_limit(place):
    parts = Parts(Blobs(place))
    assert parts.append("upload", 0, [b"abc", b"de"], most=5) == 5
    with pytest.raises(mn.InvalidInput, match="At most 6"):
        parts.append("upload", 5, [b"f", b"g"], most=6)
    assert parts.length("upload") <= 6


@everywhere
def test_of_those_who_go_on_from_one_place_one_does(place):
    """A client whose connection hangs opens another: whatever reaches the disk is one of the two, whole."""
    blobs = Blobs(place)
    parts = Parts(blobs)
    begun = threading.Barrier(4)

    def chunks():
        begun.wait()
        for piece in pieces(DATA, 3_000_000):
            time.sleep(0.001)
            yield piece

    refused = []

    def send():
        try:
            parts.append("upload", 0, chunks())
        except mn.InvalidInput as error:
            refused.append(str(error))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) >= 3
    stands = parts.length("upload")
    assert parts.append("upload", stands, [DATA[stands:]] if stands < len(DATA) else []) == len(DATA)
    assert parts.finish("upload", DIGEST) == DIGEST
    blobs.verify(DIGEST)


@everywhere
def test_many_who_put_the_same_at_once(place):
    blobs, found = Blobs(place), []
    threads = [threading.Thread(target=lambda: found.append(blobs.put(pieces(DATA), DIGEST))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [DIGEST] * 6
    assert list(blobs.digests()) == [DIGEST]
    blobs.verify(DIGEST)


@lasting
def test_an_upload_outlives_processes_that_are_killed(place):
    blobs = Blobs(place)
    parts, random_ = Parts(blobs), random.Random(2)
    for seed in range(3):
        process = elsewhere(
            place,
            """
import random
data = random.Random(1).randbytes(20_000_003)
at = parts.length('upload')
print(at, flush=True)
while at < len(data):
    at = parts.append('upload', at, [data[at + k:at + k + 50_000] for k in range(0, 200_000, 50_000) if at + k < len(data)])
    print(at, flush=True)
""",
        )
        said = [int(process.stdout.readline())]
        time.sleep(random_.uniform(0.02, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.communicate()[0].split("\n")[:-1]]
        assert parts.length("upload") >= max(said), seed
        assert list(blobs.digests()) == []
    at = parts.length("upload")
    assert parts.append("upload", at, [DATA[at:]]) == len(DATA)
    assert parts.finish("upload", DIGEST) == DIGEST
    blobs.verify(DIGEST)


@lasting
def test_a_process_killed_while_it_puts_leaves_nothing_that_is_seen(place, tmp_path):
    chunk = f"""
def chunks():
    import random
    data = random.Random(1).randbytes(20_000_003)
    for at in range(0, len(data), 1000):
        if at == 15_000_000:
            print('ready', flush=True)
        yield data[at:at + 1000]
    import time
    WAIT
blobs.put(chunks(), {DIGEST!r})
"""
    blobs = Blobs(place)
    for wait, late in (("time.sleep(60)", 0.0), ("pass", 0.004), ("pass", 0.008), ("pass", 0.02)):
        process = elsewhere(place, chunk.replace("WAIT", wait))
        assert process.stdout.readline() == "ready\n"
        time.sleep(late)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        found = list(blobs.digests())
        assert found in ([], [DIGEST])
        if found:
            blobs.verify(DIGEST)
            blobs.remove(DIGEST)
    blobs = Blobs(place)  # which removes what they have left
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert blobs.put(pieces(DATA), DIGEST) == DIGEST


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_memory_does_not_grow_with_a_blob(place):
    """500 MB put, uploaded, verified and read, in a process that may grow by a tenth of that."""
    process = elsewhere(
        place,
        """
import resource
from hashlib import sha256
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
chunk, before = bytes(range(256)) * 4096, peak()
digest = blobs.put(chunk for _ in range(500))
blobs.verify(digest)
blobs.remove(digest)
assert parts.append('upload', 0, (chunk for _ in range(500))) == 500 << 20
assert parts.finish('upload', digest) == digest
assert sum(map(len, blobs.read(digest, 7))) == (500 << 20) - 7
print(peak() - before)
""",
    )
    assert int(process.communicate()[0]) < 50
