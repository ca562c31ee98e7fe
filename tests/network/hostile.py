"""A study's own code that does what it should not: which attempt it makes, the first weight says; the second comes back as 1 if
the attempt succeeds, and as 2 if it could not even be made."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import manent as mn
from manent.core.canonical import to_plain

PLACES: dict[str, str] = {}  # what the attempts aim at; filled in as the last line of the file
KEPT = []


def reads(path: str) -> bool:
    return bool(Path(path).read_bytes()) or True


def reads_the_key() -> bool:
    return reads(PLACES["key"])


def reads_the_ledger() -> bool:
    return reads(PLACES["ledger"])


def reads_the_loader() -> bool:
    return reads(PLACES["loader"])


def reads_the_parents_environment() -> bool:
    return reads(f"/proc/{PLACES['parent']}/environ")


def reads_the_parents_memory() -> bool:
    return reads(f"/proc/{PLACES['parent']}/maps")


def lists_the_sites_folder() -> bool:
    return bool(os.listdir(Path(PLACES["key"]).parent))


def reads_passwords() -> bool:
    return reads("/etc/passwd")


def changes_the_keys_mode() -> bool:
    os.chmod(PLACES["key"], 0o600)
    return True


def changes_the_keys_times() -> bool:
    os.utime(PLACES["key"])
    return True


def gives_the_key_an_attribute() -> bool:
    os.setxattr(PLACES["key"], "user.seen", b"1")
    return True


def cuts_the_key() -> bool:
    os.truncate(PLACES["key"], os.path.getsize(PLACES["key"]))
    return True


def renames_the_key() -> bool:
    os.rename(PLACES["key"], PLACES["key"])
    return True


def removes_the_ledger() -> bool:
    os.link(PLACES["ledger"], f"{PLACES['ledger']}.link")
    os.unlink(f"{PLACES['ledger']}.link")
    return True


def watches_the_ledger() -> bool:
    libc = ctypes.CDLL(None)
    found = libc.inotify_init()
    return found >= 0 and int(libc.inotify_add_watch(found, PLACES["ledger"].encode(), 2)) >= 0


def slows_the_site() -> bool:
    os.sched_setaffinity(int(PLACES["parent"]), os.sched_getaffinity(int(PLACES["parent"])))
    return True


def limits_the_site() -> bool:
    resource.prlimit(int(PLACES["parent"]), resource.RLIMIT_CORE, (0, 0))
    return True


def follows_a_link() -> bool:
    link = Path(tempfile.gettempdir()) / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(PLACES["key"])
    return reads(str(link))


def finds_a_secret_in_the_environment() -> bool:
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    return "MANENT_TEST_SECRET" in os.environ or libc.getenv(b"MANENT_TEST_SECRET") is not None


def finds_a_descriptor() -> bool:
    found = []
    for number in range(3, 1024):
        try:
            found.append(os.fstat(number).st_mode)
        except OSError:
            continue
    return len(found) > 3  # two pipes and the data


def alters_the_data() -> bool:
    for number in range(3, 64):
        try:
            os.pwrite(number, b"x", 0)
        except OSError:
            continue
        return True
    return False


def reaches_the_server() -> bool:
    with socket.create_connection(("127.0.0.1", int(PLACES["port"])), 2) as found:
        found.send(b"hello")
    return True


def sends_a_datagram() -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        return found.sendto(b"hello", ("127.0.0.1", int(PLACES["port"]))) > 0


def reaches_a_unix_socket() -> bool:
    with socket.socket(socket.AF_UNIX) as found:
        found.connect(PLACES["unix"])
    return True


def reaches_an_abstract_socket() -> bool:
    with socket.socket(socket.AF_UNIX) as found:
        found.connect("\0" + PLACES["abstract"])
    return True


def forks() -> bool:
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    return True


def runs_a_program() -> bool:
    return subprocess.run(["/bin/true"], check=False).returncode == 0


def becomes_another_program() -> bool:
    os.execv("/bin/sleep", ["sleep", "0"])
    return True


def signals_its_parent() -> bool:
    for number in {int(PLACES["parent"]), os.getppid()} - {0, os.getpid()}:
        os.kill(number, 0)
    return os.getppid() != 0


def signals_by_a_descriptor() -> bool:
    import fcntl

    reading, writing = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, int(PLACES["parent"]))
    os.close(reading)
    os.close(writing)
    return True


def traces_its_parent() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return int(libc.ptrace(16, int(PLACES["parent"]), 0, 0)) == 0  # attach


def makes_namespaces() -> bool:
    return int(ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)) == 0


def becomes_root() -> bool:
    os.setuid(0)
    return reads(PLACES["key"])


def outlives_the_keeper() -> bool:
    return int(ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)) == 0


def takes_memory_without_a_name() -> bool:
    os.memfd_create("more")
    return True


def raises_its_limits() -> bool:
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most + 1, most + 1))
    return True


def writes_beside_the_code() -> bool:
    Path("new.py").write_text("x = 1")
    return True


def writes_a_large_file() -> bool:
    with tempfile.TemporaryFile() as file:
        for _ in range(8):
            file.write(bytes(1 << 20))
            file.flush()
    return True


def writes_many_files() -> bool:
    for index in range(8):
        (Path(tempfile.gettempdir()) / f"part{index}").write_bytes(bytes(700_000))
    return True


def takes_shared_memory() -> bool:
    return len(mmap.mmap(-1, 3 << 30)) > 0


ATTEMPTS = [
    reads_the_key, reads_the_ledger, reads_the_loader, reads_the_parents_environment, reads_the_parents_memory,
    lists_the_sites_folder, reads_passwords, changes_the_keys_mode, changes_the_keys_times, gives_the_key_an_attribute,
    cuts_the_key, renames_the_key, removes_the_ledger, watches_the_ledger, slows_the_site, limits_the_site, follows_a_link,
    finds_a_secret_in_the_environment, finds_a_descriptor,
    alters_the_data, reaches_the_server, sends_a_datagram, reaches_a_unix_socket, reaches_an_abstract_socket, forks,
    runs_a_program, becomes_another_program, signals_its_parent, signals_by_a_descriptor, traces_its_parent, makes_namespaces,
    becomes_root, outlives_the_keeper, takes_memory_without_a_name, raises_its_limits, writes_beside_the_code,
    writes_a_large_file, writes_many_files, takes_shared_memory,
]  # fmt: skip


# What ends in a failure, or in nothing.


def behaves() -> None:
    pass


def raises() -> None:
    raise RuntimeError("on \x1b[2Jpurpose")


def leaves() -> None:
    sys.exit(0)


def exits() -> None:
    os._exit(3)


def faults() -> None:
    ctypes.string_at(1)


def kills_everything() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(int(PLACES["parent"]), signal.SIGKILL)


def sleeps() -> None:
    time.sleep(1000)


def spins() -> None:
    while True:
        pass


def allocates() -> None:
    KEPT.append(np.ones(1 << 29))


def floods_the_output() -> None:
    for _ in range(20):
        os.write(1, b"\x1b[31mx" * 200_000)


def floods_the_pipe() -> None:
    while True:
        for number in range(3, 4096):  # the site's number for the pipe, which may have many files open
            try:
                os.write(number, b"\xff" * 65536)
            except OSError:
                continue


def starts_many_threads() -> None:
    KEPT.extend(threading.Thread(target=time.sleep, args=(1000,), daemon=True) for _ in range(400))
    for thread in KEPT:
        thread.start()


def spins_on() -> None:
    threading.Thread(target=spins, daemon=True).start()


def leaves_a_process() -> None:
    if not os.fork():
        os.setsid()
        for number in range(64):
            try:
                os.close(number)
            except OSError:
                continue
        if not os.fork():
            time.sleep(1000)
        os._exit(0)


def patches_the_clip() -> None:
    import manent.layers
    import manent.privacy.stack

    manent.layers.Clip.enter = lambda self, vectors, *rest: vectors
    manent.privacy.stack.Stack.client = lambda self, vectors, *rest: vectors


def _forges(vector: object, **more: object) -> None:
    from manent.network.sandbox import inside

    inside._answer = lambda *asked: ({"loss": 0.5}, {"vector": vector, **more})


def forges_the_shape() -> None:
    _forges(np.zeros(2, np.float32))


def forges_more_numbers() -> None:
    _forges(np.zeros(99, np.float32))


def forges_two_dimensions() -> None:
    _forges(np.zeros((4, 1), np.float32))


def forges_whole_numbers() -> None:
    _forges(np.zeros(5, np.int64))


def forges_half_numbers() -> None:
    _forges(np.zeros(5, np.float16))


def forges_nan() -> None:
    _forges(np.full(5, np.nan, np.float32))


def forges_a_memory() -> None:
    _forges(np.zeros(5, np.float32), memory=np.zeros(3, np.float32))


def forges_more_arrays() -> None:
    _forges(np.zeros(5, np.float32), more=np.zeros(0))


def _says(told: bytes) -> None:
    from manent.network.wire import frames

    def write(descriptor: int, *rest: object) -> None:
        os.write(descriptor, told)
        time.sleep(1000)

    frames.write = write


def says_a_long_head() -> None:
    _says(b"\xff\xff\xff\xff")


def says_a_large_array() -> None:
    text = b'{"arrays": [["vector", "<f4", [1000000000]]]}'
    _says(len(text).to_bytes(4, "little") + text)


def says_deep_nesting() -> None:
    text = b"[" * 60000
    _says(len(text).to_bytes(4, "little") + text)


def says_objects() -> None:
    text = b'{"arrays": [["vector", "|O", [4]]]}'
    _says(len(text).to_bytes(4, "little") + text)


DEEDS = [
    behaves, raises, leaves, exits, faults, kills_everything, sleeps, spins, allocates, floods_the_output, floods_the_pipe,
    starts_many_threads, spins_on, leaves_a_process, patches_the_clip, forges_the_shape, forges_more_numbers,
    forges_two_dimensions, forges_whole_numbers, forges_half_numbers, forges_nan, forges_a_memory, forges_more_arrays,
    says_a_long_head, says_a_large_array, says_deep_nesting, says_objects,
]  # fmt: skip


class Net:
    """A logistic model under another name, which acts before it trains."""

    kind, classes = "binary", 2

    def __init__(self) -> None:
        self.inner = mn.LogisticModel(3)
        self.layout = self.inner.layout

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def train(self, works, data):
        trained = self.inner.train(works, data)
        asked = int(works[0].start[0])
        if asked >= 1000:
            DEEDS[asked - 1000]()
        elif asked >= 100:
            trained[0].update[1] = self._attempted(ATTEMPTS[asked - 100])
        return trained

    def _attempted(self, attempt) -> int:
        try:
            return int(attempt())
        except (OSError, ValueError, MemoryError):
            return 0
        except Exception:  # noqa: BLE001
            return 2

    def to_plain(self) -> dict:
        return {"kind": "binary", "classes": 2, "layout": to_plain(self.layout)}


study = mn.Study(mn.FedAvg(Net(), mn.LocalSGD(lr=0.1, steps=2, batch_size=4)))
