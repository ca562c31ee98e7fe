"""What a site keeps, where two studies keep the same."""

from __future__ import annotations

import threading
from hashlib import sha256
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

import manent as mn
from manent.crypto import SigningKey, SystemRandom
from manent.network.site.connection import Connection
from manent.network.site.state import Known, SiteState, Task
from manent.network.site.work import Accepted, SumWork


@pytest.fixture
def site(tmp_path):
    return SiteState.create(tmp_path / "site", "here")


def known(letter):
    return Known(letter * 64, letter * 64, True, "", 1, 0)


def task(letter, round=1, model="m" * 64):
    return Task(f"{letter * 64}-{round}-0", letter * 64, "train", round, 0, 1, 3, model)


def test_two_studies_may_keep_equal_memory(site):
    """Blobs are named by their content: what one study keeps must not go with what another one no longer needs."""
    memory = np.arange(5, dtype=np.float32)
    for letter in "ab":
        site.put_study(known(letter))
        site.begin(task(letter))
        site.keep(task(letter), [b"record"], memory)
        site.finish(task(letter), included=True)
    for included in (False, True):
        round = 2 + included
        site.begin(task("a", round))
        site.keep(task("a", round), [b"record"], memory if not included else memory + 1)
        site.finish(task("a", round), included)
    np.testing.assert_array_equal(site.memory("a" * 64), memory + 1)
    np.testing.assert_array_equal(site.memory("b" * 64), memory)
    assert len(list(site.blobs.digests())) == 2


def test_equal_assignments_of_two_sums_do_not_get_into_each_others_way(site):
    """Both are fetched at once: in the middle of the first, the second comes and goes."""
    content = bytes(range(256)) * 20_000
    others: list[bytes] = []

    def parts(path):
        yield content[:100_000]
        if path.startswith("/v1/sums/a"):
            others.append(works["b"]._fetch(task("b", model=digest)).read_bytes())
            works["b"]._assignment(task("b", model=digest)).unlink()
        yield content[100_000:]

    class Stream(httpx.SyncByteStream):
        def __init__(self, path):
            self.path = path

        def __iter__(self):
            return parts(self.path)

    transport = httpx.MockTransport(lambda request: httpx.Response(206, stream=Stream(request.url.path)))
    connection = Connection("https://server.test", None, SigningKey.generate(SystemRandom()), transport=transport)
    digest = sha256(content).hexdigest()
    plan = SimpleNamespace(sums={"train": SimpleNamespace(layout=SimpleNamespace(size=len(content)))})
    rest = (None, None, SystemRandom(), threading.Lock())
    works = {letter: SumWork(site, connection, Accepted(known(letter), plan, None, "here"), *rest) for letter in "ab"}
    assert works["a"]._fetch(task("a", model=digest)).read_bytes() == content
    assert others == [content]


def test_what_a_site_changes_of_a_study_is_not_undone_by_an_older_view(site):
    site.put_study(known("a"))
    site.begin(task("a"))
    assert not site.leave("a" * 64).accepted
    site.finish(task("a"), included=True)
    found = site.study("a" * 64)
    assert (found.accepted, found.round, found.told) == (False, 1, False)
    with pytest.raises(mn.InvalidInput, match="no study"):
        site.leave("b" * 64)
