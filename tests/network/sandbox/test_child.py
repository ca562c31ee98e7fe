"""A study's own code in its process: it computes what it should, and what it should not do does not succeed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import manent as mn
from manent.core.canonical import to_plain
from manent.core.errors import ClientFailed, InvalidInput, Refused
from manent.core.protocols import Assignment, ClientContext
from manent.crypto import SystemRandom
from manent.crypto.samplers.gradients import ExactDraws
from manent.network.sandbox import child as child_module
from manent.network.sandbox.child import Child, Limits, isolation_here
from manent.network.sandbox.confine import MEANS
from manent.network.sandbox.handover import Data
from manent.network.site.training import OwnProcess, contribution
from manent.network.trust.identity import Identity
from manent.privacy.check import Plan, resolve
from manent.rounds.declared import Sites, rebuild
from manent.storage import open_store
from tests.network import hostile

HOSTILE = Path(hostile.__file__).read_text()
WAYS = {
    "all": MEANS,
    "namespaces refused": ("landlock", "seccomp", "user"),
    "no Landlock": ("namespaces", "seccomp", "user"),
    "as the same user": ("namespaces", "landlock", "seccomp"),
    "as the same user, namespaces refused": ("landlock", "seccomp"),
}
NET = mn.LogisticModel(3)
LOCAL = mn.LocalSGD(lr=0.1, steps=2, batch_size=4)
PRIVATE = mn.LocalSGD(lr=0.1, steps=2, batch_size=4, privacy=mn.DPSGD(1.0, 1.0, examples=12))
SMALL = Limits(memory_bytes=2_000_000_000, seconds=600.0, file_bytes=1_000_000)  # generous: the machine may be busy
CONTEXT = ClientContext("ward", 1, 7)

FOUND = {way: isolation_here(means=means) for way, means in WAYS.items()}
needs_isolation = pytest.mark.skipif(not FOUND["all"].complete, reason=f"this system cannot isolate: {FOUND['all']}")


def client(rows: int = 12) -> mn.Client:
    x = np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)
    data = mn.Examples(x, (x[:, 0] > 0).astype(np.int64), {"age": np.arange(rows, dtype=np.float64)})
    return mn.Client("ward", data, data[:5])


def plan_of(algorithm: object = None, layers: tuple = ()) -> Plan:
    """A site's plan of the study in hostile.py, of which it knows the plain data alone."""
    document = mn.Study(algorithm or mn.FedAvg(NET, LOCAL, evaluation=mn.Evaluation()), layers=layers).to_plain()
    document["algorithm"]["model"] = {"type": "study_file:Net", "kind": "binary", "classes": 2, "layout": to_plain(NET.layout)}
    return resolve(rebuild(json.loads(json.dumps(document))), Sites(("ward", "other"), mn.Schema(shape=(3,), classes=2)))


def code(**places: object) -> dict[str, str]:
    return {"study.py": f"{HOSTILE}\nPLACES.update({ {name: str(value) for name, value in places.items()}!r})\n"}


def asked(number: float, sum: str = "train") -> Assignment:
    return Assignment(sum, {"model": np.array([number, 0.5, -1.0, 0.25], np.float32)})


def deed(name: str) -> Assignment:
    return asked(1000 + [one.__name__ for one in hostile.DEEDS].index(name))


def processes(folder: str) -> list[int]:
    """Processes that were started for a folder, those of the inner kind too."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if folder.encode() in (path / "cmdline").read_bytes() and "State:\tZ" not in (path / "status").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def left_behind(folder: str) -> list[int]:
    """Those of them whose session has lost its leader: what was forked by a process that was forked, and is over."""
    found = processes(folder)
    return [pid for pid in found if os.getsid(pid) not in found]


def none_left(folder: str, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while processes(folder) and time.monotonic() < end:
        time.sleep(0.05)
    return not processes(folder)


@pytest.fixture(scope="module")
def data() -> Iterator[Data]:
    with Data.of(client()) as found:
        yield found


@contextmanager
def hostile_child(data: Data, files: dict[str, str] | None = None, limits: Limits = SMALL, **options: object) -> Iterator[Child]:
    with Child(files or code(parent=os.getpid()), plan_of(), data, limits, **options) as found:
        yield found


# What it is for.


@pytest.mark.parametrize(
    ("algorithm", "memory"),
    [(mn.FedAvg, None), (mn.SCAFFOLD, np.linspace(-1, 1, 4, dtype=np.float32)), (mn.FedDyn, np.ones(4, np.float32))],
)
def test_its_contributions_are_those_of_the_sites_own_process(data, algorithm, memory):
    made = algorithm(NET, LOCAL, evaluation=mn.Evaluation())
    own = OwnProcess(resolve(mn.Study(made), Sites(("ward", "other"), mn.Schema(shape=(3,), classes=2))), client())
    start = asked(0.1).arrays
    extra = {name: np.full(4, 0.25, np.float32) for name in made.sends()}
    with Child(code(), plan_of(made), data, SMALL, isolation="preferred") as child:
        for round in (1, 2):
            about = (Assignment("train", {**start, **extra}), memory, replace(CONTEXT, round=round, work=0.5))
            expected, found = own.answer(*about), child.answer(*about)
            np.testing.assert_array_equal(found.vector, expected.vector)
            assert found.vector.dtype == expected.vector.dtype
            assert (found.memory is None) == (expected.memory is None)
            if expected.memory is not None:
                np.testing.assert_array_equal(found.memory, expected.memory)
            assert found.probe == {"loss": pytest.approx(expected.probe["loss"])}
        measured = (Assignment("evaluate", start), None, CONTEXT)
        np.testing.assert_array_equal(child.answer(*measured).vector, own.answer(*measured).vector)


def test_private_training_draws_in_there(data):
    with Child(code(), plan_of(mn.FedAvg(NET, PRIVATE)), data, SMALL, isolation="preferred") as child:
        context = replace(CONTEXT, draws=ExactDraws(SystemRandom()))
        first, second = (child.answer(asked(0.1), None, context).vector for _ in range(2))
        assert not np.array_equal(first, second)
        with pytest.raises(ClientFailed, match="private source"):
            child.answer(asked(0.1), None, CONTEXT)


def test_a_network_of_torch(data, tmp_path):
    pytest.importorskip("torch")
    text = (
        "import torch\nimport manent as mn\nfrom layers import Wide\n"
        "model = mn.TorchModel(Wide(3), 'binary_cross_entropy')\n"
        "study = mn.Study(mn.FedAvg(model, mn.LocalSGD(lr=0.1, steps=2, batch_size=4)))\n"
    )
    beside = (
        "import torch\n\nclass Wide(torch.nn.Module):\n    def __init__(self, n):\n        super().__init__()\n"
        "        self.inner = torch.nn.Linear(n, 1)\n\n    def forward(self, x):\n        return self.inner(x)[:, 0]\n"
    )
    files = {"study.py": text, "layers.py": beside}
    # The study's plain data come from the code itself, in another process, as a researcher makes them.
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    make = (
        "import json; from pathlib import Path; from manent.network.sandbox.handover import execute; "
        "print(json.dumps(execute(Path('study.py'), 'study_file').study.to_plain()))"
    )
    run = subprocess.run([sys.executable, "-c", make], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    plan = resolve(rebuild(json.loads(run.stdout)), Sites(("ward", "other"), mn.Schema(shape=(3,), classes=2)))
    with Child(files, plan, data, isolation="preferred") as child:
        found = child.answer(Assignment("train", {"model": np.zeros(4, np.float32)}), None, CONTEXT)
    assert found.vector.shape == (plan.sums["train"].layout.size,)
    assert np.abs(found.vector[:3]).max() > 0


# What must not succeed.


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Iterator[dict[str, object]]:
    """A site's folder, and servers that listen on this machine."""
    folder = tmp_path_factory.mktemp("site")
    Identity.create(folder / "identity.key", "ward")
    open_store(folder / "ledger.db").close()
    (folder / "load.py").write_text("def load():\n    return None\n")
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as own,
    ):
        named.bind(str(folder / "socket"))
        named.listen()
        abstract = f"manent-test-{os.getpid()}"
        own.bind(f"\0{abstract}")
        own.listen()
        yield {
            "key": folder / "identity.key", "ledger": folder / "ledger.db", "loader": folder / "load.py", "parent": os.getpid(),
            "port": tcp.getsockname()[1], "unix": folder / "socket", "abstract": abstract, "folder": folder,
        }  # fmt: skip


@pytest.fixture(scope="module")
def shut_in(places, data) -> Iterator[dict[str, Child]]:
    """A child for each way of isolation, started when it is first needed; and one without."""
    os.environ["MANENT_TEST_SECRET"] = "secret"
    hidden = (places["folder"],)
    found = {way: Child(code(**places), plan_of(), data, SMALL, "required", hidden, means) for way, means in WAYS.items()}
    found["none"] = Child(code(**places), plan_of(), data, SMALL, "preferred", hidden, ())
    yield found
    for one in found.values():
        one.close()
    del os.environ["MANENT_TEST_SECRET"]


def attempted(child: Child, name: str) -> int:
    """1 where an attempt succeeds, 0 where it does not, 2 where it could not be made."""
    number = [one.__name__ for one in hostile.ATTEMPTS].index(name)
    behaving, found = (child.answer(asked(n), None, CONTEXT).vector for n in (50.0, 100.0 + number))
    weight = 12  # rows: an update is weighted by them
    assert behaving.shape == found.shape
    return round(float(found[1] / weight))


@needs_isolation
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [attempt.__name__ for attempt in hostile.ATTEMPTS])
def test_no_attempt_succeeds(shut_in, way, name):
    if not FOUND[way].complete:
        pytest.skip(f"this system cannot: {FOUND[way]}")
    assert attempted(shut_in[way], name) == 0


WITHOUT = [
    "reads_the_key", "reads_the_ledger", "reads_the_loader", "lists_the_sites_folder",
    "reads_passwords", "reaches_the_server", "sends_a_datagram", "reaches_a_unix_socket", "reaches_an_abstract_socket", "forks",
    "runs_a_program", "signals_its_parent", "signals_by_a_descriptor", "outlives_the_keeper", "takes_memory_without_a_name",
    "writes_beside_the_code", "writes_many_files", "changes_the_keys_mode", "changes_the_keys_times", "cuts_the_key",
    "renames_the_key", "removes_the_ledger", "watches_the_ledger",
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="attempts of Linux")
@pytest.mark.parametrize("name", WITHOUT)
def test_the_attempts_would_succeed_without_isolation(shut_in, name):
    assert attempted(shut_in["none"], name) == 1


@needs_isolation
@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="takes root, to become another")
def test_the_same_for_a_user_without_rights():
    """The whole as a user of no privileges, who makes user namespaces; the interpreter is where that user can reach it."""
    text = UNPRIVILEGED.format(root=str(Path(__file__).parents[3]))
    # The folder of the interpreter, where it is root's, is mounted where everybody can reach it.
    reach = (
        "set -e; mount -t tmpfs -o mode=755 none /mnt; mkdir /mnt/py; mount --bind $1 /mnt/py; "
        "mount -t tmpfs -o mode=755 none /root; mkdir -p $1; mount --bind /mnt/py $1; "
    )
    base = sys.base_prefix
    become = f'{reach if base.startswith("/root/") else ""}cd /; exec setpriv --reuid 1001 --regid 1001 --clear-groups $2 -c "$3"'
    command = ["unshare", "-m", "bash", "-c", become, "become", base, sys.executable, text]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(f"a user cannot be isolated here: {done.stdout}")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [1001, "namespaces of users, files, network, processes", []]


UNPRIVILEGED = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import tempfile
os.environ["HOME"] = tempfile.gettempdir()
from tests.network.sandbox import test_child as t
with tempfile.TemporaryDirectory() as folder, t.Data.of(t.client()) as data:
    key = Path(folder) / "key"
    key.write_text("secret")
    with t.socket.create_server(("127.0.0.1", 0)) as server:
        near = dict(key=key, ledger=key, loader=key, parent=os.getpid(), port=server.getsockname()[1], unix=key, abstract="none")
        files = t.code(**near)
        try:
            with t.Child(files, t.plan_of(), data, t.SMALL, "required", (Path(folder),)) as child:
                wrong = [one.__name__ for one in t.hostile.ATTEMPTS if t.attempted(child, one.__name__)]
                print(t.json.dumps([os.getuid(), child.isolation.means[0], wrong]))
        except t.Refused as error:
            print(error)
            raise SystemExit(77)
"""


def test_where_isolation_is_required_and_cannot_be_had_no_code_is_loaded(data, places, tmp_path):
    marker = tmp_path / "loaded"
    files = code()
    files["study.py"] += f"open({str(marker)!r}, 'w').close()\n"
    child = Child(files, plan_of(), data, SMALL, "required", (places["folder"],), ())
    with pytest.raises(Refused, match="cannot be isolated here.*can be read") as refused:
        child.start()
    assert not marker.exists()
    assert "network" in child.isolation.leaks
    assert "not asked for" in str(refused.value)
    assert not child.isolation.complete
    with Child(files, plan_of(), data, SMALL, "preferred", (places["folder"],), ()):
        assert marker.exists()


@needs_isolation
@pytest.mark.parametrize("way", WAYS)
def test_the_isolation_names_its_means(way):
    found = FOUND[way]
    assert all(name in found.lacks for name in set(MEANS) - set(WAYS[way]) - {"user"})
    assert all(found.lacks[name] == "not asked for" for name in found.lacks if name not in WAYS[way])
    assert len(found.means) + len(found.lacks) >= 3
    assert "shut in" in str(found) or found.leaks


@pytest.mark.parametrize(
    ("means", "leak"), [(("seccomp",), "files"), (("landlock",), "new processes"), (("namespaces",), "new processes")]
)
def test_half_an_isolation_is_none(means, leak):
    assert leak in isolation_here(means=means).leaks


# What ends it, and what comes of that.


@needs_isolation
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", r"RuntimeError: on \[2Jpurpose \(study.py, line \d+\)"),
        ("leaves", "SystemExit"),
        ("exits", "code 3"),
        ("faults", "fault of memory"),
        ("kills_everything", "Error"),
        ("allocates", "MemoryError"),
        ("floods_the_pipe", "frame"),
        ("starts_many_threads", "start new thread"),
        ("forges_the_shape", r"float32\[2\]; expected float32 or float64 \[5\]"),
        ("forges_two_dimensions", r"float32\[4, 1\]"),
        ("forges_whole_numbers", "int64"),
        ("forges_more_numbers", "were asked for"),
        ("forges_half_numbers", "float16"),
        ("forges_a_memory", r"float32\[3\]"),
        ("forges_more_arrays", "expected a vector"),
        ("says_a_long_head", "at most"),
        ("says_a_large_array", "were asked for"),
        ("says_deep_nesting", "JSON"),
        ("says_objects", "lists"),
        ("leaves_a_process", "PermissionError"),
    ],
)
def test_what_goes_wrong_is_the_clients_failure_and_the_next_answer_comes(sturdy, name, reason):
    child, expected = sturdy
    if name.startswith("forges"):  # which shows with the next answer
        child.answer(deed(name), None, CONTEXT)
    with pytest.raises(ClientFailed, match=reason) as failed:
        child.answer(deed(name), None, CONTEXT)
    assert failed.value.round == 1
    assert "\x1b" not in str(failed.value)
    if name in ("starts_many_threads", "allocates"):  # which go on in the same process
        child.close()
    np.testing.assert_array_equal(child.answer(deed("behaves"), None, CONTEXT).vector, expected)


@pytest.fixture(scope="module")
def sturdy(data) -> Iterator[tuple[Child, object]]:
    """A child that is asked for much that goes wrong, and what it answers otherwise."""
    with hostile_child(data, limits=replace(SMALL, threads=128)) as child:
        yield child, child.answer(deed("behaves"), None, CONTEXT).vector


@pytest.mark.parametrize("name", ["sleeps", "spins"])
def test_what_takes_for_ever_is_ended(data, name):
    with hostile_child(data, limits=replace(SMALL, seconds=1.5), isolation="preferred") as child:
        folder, begun = str(child._running.folder), time.monotonic()
        with pytest.raises(ClientFailed, match=r"longer than 1\.5 s"):
            child.answer(deed(name), None, CONTEXT)
        assert time.monotonic() - begun < 20
        assert none_left(folder)
        assert not Path(folder).exists()


def test_what_is_printed_is_no_matter(data):
    with hostile_child(data, isolation="preferred") as child:
        before = child.answer(deed("floods_the_output"), None, CONTEXT)
        assert np.isfinite(before.vector).all()
        assert len(child._running.said) <= child_module.MOST_SAID


def test_nan_becomes_zeros_behind_a_clip_and_a_failure_elsewhere(data):
    for layers in ((), (mn.Clip(1.0),)):
        algorithm = mn.FedAvg(NET, LOCAL, weighting="equal")
        plan, files = plan_of(algorithm, layers), code()
        files["study.py"] = files["study.py"].replace("np.full(5, np.nan", "np.full(4, np.nan")
        with Child(files, plan, data, SMALL, isolation="preferred") as child:
            child.answer(deed("forges_nan"), None, CONTEXT)
            about = (plan, child, asked(0), None, CONTEXT, SystemRandom())
            if layers:
                assert not contribution(*about)[0].any()
            else:
                with pytest.raises(ClientFailed, match="NaN"):
                    contribution(*about)


def test_a_layer_that_is_patched_in_there_still_clips_here(data):
    plan = plan_of(mn.FedAvg(NET, LOCAL, weighting="equal"), (mn.Clip(1e-3),))
    with Child(code(), plan, data, SMALL, isolation="preferred") as child:
        child.answer(deed("patches_the_clip"), None, CONTEXT)
        assert np.linalg.norm(child.answer(asked(5), None, CONTEXT).vector) > 1e-2
        vector, _ = contribution(plan, child, asked(5), None, CONTEXT, SystemRandom())
    assert 0 < np.linalg.norm(vector) <= 1e-3 * (1 + 1e-6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks into /proc")
def test_between_answers_it_is_stopped(data):
    with hostile_child(data, isolation="preferred") as child:
        child.answer(deed("spins_on"), None, CONTEXT)
        keeper = child._running.process.pid
        (inner,) = [pid for pid in processes(str(child._running.folder)) if pid != keeper]

        def state() -> str:
            return (Path("/proc") / str(inner) / "status").read_text().split("State:\t")[1][0]

        end = time.monotonic() + 10
        while state() != "T" and time.monotonic() < end:
            time.sleep(0.02)
        assert state() == "T"
        assert np.isfinite(child.answer(deed("behaves"), None, CONTEXT).vector).all()


@needs_isolation
def test_a_process_that_was_left_ends_with_it(data):
    """Where system calls are not filtered it can fork; in its own namespace that does not help."""
    with hostile_child(data, isolation="preferred", means=("namespaces", "landlock", "user")) as child:
        folder = str(child._running.folder)
        child.answer(deed("leaves_a_process"), None, CONTEXT)
        # Not counted: the process in between is over at some moment, and one that comes and one that goes look like none.
        end = time.monotonic() + 30
        while not (left := left_behind(folder)) and time.monotonic() < end:
            time.sleep(0.05)
        assert len(left) == 1
    assert none_left(folder)


@pytest.mark.parametrize("stopped", [False, True])
def test_it_ends_with_the_site(tmp_path, stopped):
    """kill -9 of the site, while the code computes and while it is stopped."""
    script = tmp_path / "site.py"
    script.write_text(SITE.format(root=str(Path(__file__).parents[3]), deed="behaves" if stopped else "sleeps"))
    site = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    folder = site.stdout.readline().strip()
    time.sleep(0.3)
    assert len(processes(folder)) >= 2
    site.send_signal(signal.SIGKILL)
    site.wait()
    site.stdout.close()
    assert none_left(folder)
    shutil.rmtree(folder, ignore_errors=True)


SITE = """
import sys, time
sys.path.insert(0, {root!r})
from tests.network.sandbox import test_child as t
with t.Data.of(t.client()) as data, t.Child(t.code(), t.plan_of(), data, t.SMALL, "preferred") as child:
    if {deed!r} == "behaves":
        child.answer(t.deed("behaves"), None, t.CONTEXT)
    print(child._running.folder, flush=True)
    if {deed!r} != "behaves":
        child.answer(t.deed({deed!r}), None, t.CONTEXT)
    time.sleep(1000)
"""


# Code that does not fit.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_like_it\n", r"ModuleNotFoundError.*\(study.py, line 1\)"),
        ("study = 1\n", "must define 'study', a Study; found an int"),
        ("study =\n", "SyntaxError"),
        (HOSTILE.replace('"classes": 2', '"classes": 3'), "not the one that the study declares"),
        ("import os\nos._exit(9)\n", "code 9"),
        ("raise SystemExit\n", "SystemExit"),
        ("print('hear me')\nimport ctypes\nctypes.string_at(1)\n", "fault of memory"),
    ],
)
def test_code_that_cannot_be_loaded_is_named(data, text, reason):
    child = Child({"study.py": text}, plan_of(), data, SMALL, isolation="preferred")
    with pytest.raises(InvalidInput, match=reason):
        child.start()


def test_code_that_loads_for_ever_is_ended(data, monkeypatch):
    class Impatient(Child):
        def _load(self, *about):  # once the process has started, for which it has as long as ever
            monkeypatch.setattr(child_module, "STARTING", 4.0)
            super()._load(*about)

    child = Impatient({"study.py": "while True: pass\n"}, plan_of(), data, replace(SMALL, seconds=1.0), isolation="preferred")
    with pytest.raises(InvalidInput, match="longer than 5 s"):
        child.start()


def test_too_little_memory_is_named(data):
    child = Child(code(), plan_of(), data, replace(SMALL, memory_bytes=100_000_000), isolation="preferred")
    with pytest.raises(InvalidInput, match="could not be loaded"):
        child.start()


def test_data_that_do_not_fit_the_model_are_named():
    with Data.of(mn.Client("ward", mn.Examples(np.zeros((4, 7), np.float32), np.zeros(4, np.int64)))) as wrong:
        child = Child(code(), plan_of(), wrong, SMALL, isolation="preferred")
        with pytest.raises(InvalidInput, match="training part"):
            child.start()


# A site's own loader.

LOADER = """
import os, threading, time
from pathlib import Path
import numpy as np
import manent as mn
from beside import shift

left = os.open(__file__, os.O_RDONLY)
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()

def load():
    rows = np.array(Path(os.environ["MANENT_TEST_FOLDER"], "rows.txt").read_text().split(), np.float32).reshape(-1, 3)
    data = mn.Examples(rows + shift, np.array([0, 1, 0, 1]))
    return {returned}
"""


@pytest.fixture
def loader(tmp_path, monkeypatch):
    monkeypatch.setenv("MANENT_TEST_FOLDER", str(tmp_path))
    return lambda returned: written(tmp_path, returned)


def written(folder: Path, returned: str) -> Path:
    (folder / "rows.txt").write_text(" ".join(map(str, range(12))))
    (folder / "beside.py").write_text("shift = 0.5\n")
    (folder / "load.py").write_text(LOADER.format(returned=returned))
    return folder / "load.py"


@pytest.mark.parametrize(
    ("returned", "name", "test"),
    [("data", "site", None), ("mn.Client('ward', data)", "ward", None), ("(data, data[:1])", "site", 1)],
)
def test_a_loader_runs_with_the_sites_rights_and_its_data_arrive(tmp_path, loader, returned, name, test):
    with Data.load(loader(returned), "load") as data:
        assert (data.name, data.train, data.test) == (name, 4, test)
        with Child(code(parent=os.getpid()), plan_of(), data, SMALL, isolation="preferred", hidden=(tmp_path,)) as child:
            assert child.answer(asked(0), None, CONTEXT).vector[-1] == 4  # rows


@pytest.mark.parametrize(
    ("returned", "reason"),
    [
        ("7", "found an int"),
        ("[].x", "AttributeError"),
        ("mn.Examples(np.array([{}] * 4), np.zeros(4))", "array of numbers"),
        ("os._exit(4)", "exit code 4"),
        ("os._exit(0)", "returned no data"),
        ("time.sleep(1000)", "longer than"),
    ],
)
def test_a_loader_that_returns_no_data_is_named(loader, returned, reason):
    with pytest.raises(InvalidInput, match=reason):
        Data.load(loader(returned), "load", 120.0 if "sleep" not in returned else 2.5)


def test_data_come_back_as_they_were():
    import manent.network.sandbox.handover as handover

    one = client()
    with Data.of(one) as data:
        found = handover.read(data.descriptor)
        assert (data.train, data.test, data.name) == (12, 5, "ward")
        with pytest.raises(OSError):
            os.pwrite(data.descriptor, b"x", 0)
    for a, b in ((one.train, found.train), (one.test, found.test)):
        for x, y in ((a.x, b.x), (a.y, b.y), (a.columns["age"], b.columns["age"])):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
