"""Every store, one row each."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import manent as mn
from manent.core.store import Store
from manent.storage import MemoryStore, open_store

# How each is opened, from the text that `place` gives: the one in memory has none.
STORES: dict[str, Callable[[str], Store]] = {
    "memory": lambda place: MemoryStore(),
    "SQLite": open_store,
    "PostgreSQL": open_store,
}
# Those that outlive a process, and the code that opens one in another process.
DURABLE = ["SQLite", "PostgreSQL"]
ELSEWHERE = "from manent.storage import open_store\nstore = open_store(PLACE)\n"


def place(kind, request, tmp_path):
    return request.getfixturevalue("postgres_url") if kind == "PostgreSQL" else str(tmp_path / "store.db")


@pytest.fixture(params=list(STORES))
def store(request, tmp_path):
    with_store = STORES[request.param](place(request.param, request, tmp_path))
    yield with_store
    with_store.close()


@pytest.fixture(params=DURABLE)
def durable(request, tmp_path):
    """Open it, and start Python code that has it open as `store`, in another process."""
    where = place(request.param, request, tmp_path)

    def elsewhere(code: str) -> subprocess.Popen:
        whole = f"PLACE = {where!r}\n{ELSEWHERE}{code}"
        return subprocess.Popen([sys.executable, "-c", whole], stdout=subprocess.PIPE, text=True)

    return lambda: STORES[request.param](where), elsewhere


def test_rows_come_back_in_order_from_where_one_asks(store):
    with store.transaction() as t:
        assert [t.append("a", bytes([i])) for i in range(5)] == [0, 1, 2, 3, 4]
        assert t.append("b", b"\x00\xff") == 0
        assert t.count("a") == 5
    with store.snapshot() as s:
        assert list(s.rows("a", 3)) == [b"\x03", b"\x04"]
        assert list(s.rows("a")) == [bytes([i]) for i in range(5)]
        assert list(s.rows("b")) == [b"\x00\xff"]
        assert list(s.rows("none")) == [] == list(s.rows("a", 9))
        assert (s.count("a"), s.count("none")) == (5, 0)


def test_documents_are_set_replaced_and_removed(store):
    with store.transaction() as t:
        t.put("x/1", b"one")
        t.put("x/2", b"")
        t.put("y_1", b"other")
        t.put("x/1", b"uno")
    with store.transaction() as t:
        assert t.get("x/1") == b"uno"
        assert t.get("x/2") == b""
        assert t.get("x/3") is None
        t.remove("x/2")
        t.remove("never there")
    with store.snapshot() as s:
        assert list(s.keys("x/")) == ["x/1"]
        assert list(s.keys()) == ["x/1", "y_1"]
        assert list(s.keys("%")) == []


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=8), st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_keys_are_sorted_by_code_points_and_found_by_any_prefix(store, keys, data):
    keys = [*keys, "a", "a\ud7ff", "a\ue000", "B", "\u00e4", "a\U0010ffff", "a\U0010ffffb"]
    whole = data.draw(st.sampled_from(keys))
    prefix = whole[: data.draw(st.integers(0, len(whole)))]
    with store.transaction() as t:
        for key in tuple(t.keys()):
            t.remove(key)
        for key in keys:
            t.put(key, key.encode())
        assert list(t.keys(prefix)) == sorted({key for key in keys if key.startswith(prefix)})
        assert t.get(whole) == whole.encode()


def test_rows_and_documents_of_some_megabytes(store):
    large = random.Random(1).randbytes(20_000_000)
    with store.transaction() as t:
        assert [t.append("log", large), t.append("log", b""), t.append("log", large[::-1])] == [0, 1, 2]
        t.put("document", large)
    with store.snapshot() as s:
        assert tuple(s.rows("log")) == (large, b"", large[::-1])
        assert s.get("document") == large


def test_a_snapshot_sees_one_moment(store):
    """Two documents are always changed together: a reader who looks at them one after the other finds them equal."""
    with store.transaction() as t:
        t.put("a", b"0")
        t.put("b", b"0")
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with store.transaction() as t:
                t.put("a", str(number).encode())
                t.append("log", b"x")
                t.put("b", str(number).encode())
            written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(30):
            with store.snapshot() as s:
                first = s.get("a")
                written.clear()
                written.wait(0.01)  # a writer that readers do not hold up has gone on
                count = s.count("log")
                assert (s.get("b"), count, len(s.rows("log"))) == (first, int(first), count)
    finally:
        stop.set()
        writer.join()


def test_an_exception_undoes_everything(store):
    with store.transaction() as t:
        t.append("log", b"kept")
        t.put("document", b"kept")

    def fail() -> None:
        with store.transaction() as t:
            t.append("log", b"lost")
            t.append("new", b"lost")
            t.put("document", b"lost")
            t.put("new", b"lost")
            t.remove("document")
            1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.transaction() as t:
        assert list(t.rows("log")) == [b"kept"]
        assert t.get("document") == b"kept"
        assert t.get("new") is None
        assert t.count("new") == 0
        assert t.append("log", b"next") == 1


def test_transactions_do_not_nest_and_end(store):
    with store.transaction() as t:
        with pytest.raises(mn.InvalidInput, match="already open"), store.transaction():
            pass
        with pytest.raises(mn.InvalidInput, match="already open"), store.snapshot():
            pass
        t.put("document", b"of the outer one")
    with store.snapshot() as s:
        assert s.get("document") == b"of the outer one"
        with pytest.raises(mn.InvalidInput, match="already open"), store.transaction():
            pass
    with pytest.raises(mn.InvalidInput, match="ended"):
        t.append("log", b"late")
    with store.snapshot() as s:
        pass
    with pytest.raises(mn.InvalidInput, match="ended"):
        s.get("late")


def test_a_closed_store_says_so(store):
    store.close()
    with pytest.raises(mn.InvalidInput, match="closed"), store.transaction():
        pass


def test_threads_that_read_and_write_lose_nothing(store):
    """Each reads a number and writes the next one: only transactions that wait for each other get the right end."""

    def work() -> None:
        for _ in range(25):
            with store.transaction() as t:
                number = int(t.get("number") or b"0") + 1
                t.put("number", str(number).encode())
                assert t.append("log", str(number).encode()) == number - 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.snapshot() as s:
        assert s.get("number") == b"200"
        assert list(s.rows("log")) == [str(i + 1).encode() for i in range(200)]


def test_processes_that_open_it_at_once_make_it_once(durable):
    opened, elsewhere = durable
    processes = [elsewhere("with store.transaction() as t:\n    t.append('log', b'x')") for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    store = opened()
    with store.snapshot() as s:
        assert s.count("log") == 4
    store.close()


def test_threads_that_open_it_at_the_same_moment_make_it_once(durable):
    opened, _ = durable
    begun, stores = threading.Barrier(6), []

    def work() -> None:
        begun.wait()
        stores.append(opened())
        with stores[-1].transaction() as t:
            t.append("log", b"x")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with stores[0].snapshot() as s:
        assert s.count("log") == 6
    for store in stores:
        store.close()


def test_what_was_committed_is_there_when_opened_again(durable):
    opened, _ = durable
    first = opened()
    with first.transaction() as t:
        t.append("log", b"row")
        t.put("document", b"text")
    first.close()
    second = opened()
    with second.snapshot() as s:
        assert (list(s.rows("log")), s.get("document")) == ([b"row"], b"text")
    second.close()


def test_processes_that_read_and_write_lose_nothing(durable):
    opened, elsewhere = durable
    code = """
for _ in range(50):
    with store.transaction() as t:
        number = int(t.get('number') or b'0') + 1
        t.put('number', str(number).encode())
        assert t.append('log', str(number).encode()) == number - 1
"""
    processes = [elsewhere(code) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    store = opened()
    with store.snapshot() as s:
        assert list(s.rows("log")) == [str(i + 1).encode() for i in range(200)]
    store.close()


def test_a_process_killed_in_a_transaction_leaves_what_was_committed(durable):
    opened, elsewhere = durable
    process = elsewhere("""
with store.transaction() as t:
    t.append('log', b'kept')
open_one = store.transaction()
t = open_one.__enter__()
t.append('log', b'lost')
t.put('document', b'lost')
print('ready', flush=True)
import time; time.sleep(60)
""")
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store = opened()
    with store.transaction() as t:
        assert list(t.rows("log")) == [b"kept"]
        assert t.get("document") is None
        t.append("log", b"next")
    store.close()


def test_kills_at_any_time_lose_no_acknowledged_row(durable):
    """Two processes write side by side, and each is killed; the log has every row they spoke of, and no gap."""
    opened, elsewhere = durable
    said, moments = {}, random.Random(3)
    for turn in range(3):
        processes = [
            elsewhere(f"""
while True:
    with store.transaction() as t:
        number = t.append('log', b'{turn} {writer}')
        t.put('number', str(number).encode())
    print(number, flush=True)
""")
            for writer in range(2)
        ]
        for writer, process in enumerate(processes):
            said[int(process.stdout.readline())] = f"{turn} {writer}".encode()
        for writer, process in enumerate(processes):
            time.sleep(moments.uniform(0.01, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            lines = process.communicate()[0].split("\n")[:-1]
            said |= {int(line): f"{turn} {writer}".encode() for line in lines}
        store = opened()
        with store.transaction() as t:  # a transaction, which waits until the database knows that they are gone
            rows, number = t.rows("log"), t.get("number")
        assert {number: rows[number] for number in said} == said
        assert number == str(len(rows) - 1).encode()
        store.close()
    assert len(said) > 30


def test_a_forked_child_uses_its_own_connection(durable):
    """The child is in a transaction while the parent begins one: the parent waits for it as for any other writer."""
    opened, _ = durable
    store = opened()
    with store.transaction() as t:
        t.append("log", b"parent")
    heard, tell = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with store.transaction() as t:
                t.append("log", b"child")
                os.write(tell, b"x")
                time.sleep(0.2)
                t.append("log", b"still the child")
            status = 0
        finally:
            os._exit(status)
    os.read(heard, 1)
    with store.snapshot() as s:
        assert s.count("log") == 1
    with store.transaction() as t:
        assert t.append("log", b"parent") == 3
    assert os.waitpid(child, 0)[1] == 0
    with store.transaction() as t:
        assert list(t.rows("log")) == [b"parent", b"child", b"still the child", b"parent"]
    store.close()
