"""Steps that are committed together: each as if it were alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from manent.core.errors import InvalidInput
from manent.storage import MemoryStore, open_store
from manent.storage.together import Together


class Counted:
    """A store that counts its transactions, and holds the first one up until told."""

    def __init__(self, store):
        self.store, self.count, self.go = store, 0, threading.Event()

    @contextmanager
    def transaction(self):
        self.count += 1
        if self.count == 1:
            assert self.go.wait(30)
        with self.store.transaction() as transaction:
            yield transaction


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else open_store(tmp_path / "store.db")
    yield made
    made.close()


def append(number):
    return lambda transaction, _: transaction.append("log", str(number).encode())


def held(counted, steps):
    """Run steps in threads of their own, all but the first while the first transaction is held up."""
    together, found = Together(counted), {}

    def run(number, step):
        try:
            found[number] = together.run(step)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
            found[number] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(steps)]
    threads[0].start()
    while counted.count == 0:
        time.sleep(0.001)
    for thread in threads[1:]:
        thread.start()
    while len(together._queue) < len(steps) - 1:
        time.sleep(0.001)
    counted.go.set()
    for thread in threads:
        thread.join(30)
    return found


def test_many_steps_take_two_transactions(store):
    counted = Counted(store)
    found = held(counted, [append(number) for number in range(20)])
    assert counted.count == 2
    with store.snapshot() as view:
        rows = view.rows("log")
    assert all(rows[place] == str(number).encode() for number, place in found.items())
    assert len(rows) == 20


def test_a_step_that_is_refused_takes_nothing_from_the_others(store):
    def refuse(transaction, _):
        raise InvalidInput("no")

    found = held(Counted(store), [append(0), append(1), refuse, append(2)])
    assert isinstance(found[2], InvalidInput)
    with store.snapshot() as view:
        assert sorted(view.rows("log")) == [b"0", b"1", b"2"]


def test_a_step_that_breaks_undoes_those_beside_it_and_everyone_hears_of_it(store):
    left = []

    def enter(transaction, until):
        until.push(lambda kind, error, trace: left.append(kind))
        return transaction.append("log", b"x")

    def broken(transaction, _):
        raise RuntimeError("torn")

    found = held(Counted(store), [append(0), enter, broken, append(2)])
    assert [isinstance(found[number], RuntimeError) for number in range(4)] == [False, True, True, True]
    assert left == [RuntimeError]
    with store.snapshot() as view:
        assert view.rows("log") == (b"0",)


def test_what_a_step_enters_is_left_after_the_commit(store):
    together, seen = Together(store), []

    @contextmanager
    def watch():
        yield
        with store.snapshot() as view:
            seen.append(view.rows("log"))

    def step(transaction, until):
        until.enter_context(watch())
        transaction.append("log", b"x")

    together.run(step)
    assert seen == [(b"x",)]


def test_under_load_each_step_is_kept_once(store):
    together = Together(store)
    with ThreadPoolExecutor(16) as pool:
        places = list(pool.map(lambda number: together.run(append(number)), range(300)))
    assert sorted(places) == list(range(300))
