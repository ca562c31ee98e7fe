"""Confines a process before code that is not trusted is loaded. Run as a script, with the standard library alone.

`python -I confine.py ORDER` becomes two processes. The *keeper* makes namespaces and waits until a pipe from the site ends, or
says so; then it kills the other. The *inner* process confines itself, tries from inside what it can still do, writes a frame with
the result, and goes on as `manent.network.sandbox.inside`. It has one thread until then, as what is set for a thread holds for
all threads that it starts later.

There are four means, each used if the system has it. Files are protected by the first, or by the second with the third; the
network by the first or the third; new processes are refused by the third:

- namespaces (Linux; as root, or if users may make them): a file system that holds the interpreter, the system's libraries and the
  study's code, read-only, and a small folder in memory; a network without devices; no view of other processes.
- Landlock (Linux 5.13 and later): the same files; TCP refused from 6.7, signals and abstract sockets from 6.12.
- seccomp (Linux on x86-64 and AArch64): refuses system calls for sockets, new processes and programs, other processes,
  namespaces, mounts, keys, io_uring, memory that no limit counts, and what Landlock does not cover of files (their modes and
  times; notices of their use).
- a user id of its own, if the site is root, and everybody can read the interpreter.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

MEANS = ("namespaces", "landlock", "seccomp", "user")
NUMBERS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENBLAS_CORETYPE",
    "MKL_NUM_THREADS",
    "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES",
)
"""Settings of the environment that decide how numbers are computed: if they are equal, results are equal to the last bit."""
ENVIRONMENT = ("HOME", "TMPDIR", "LANG", *NUMBERS)
LIBRARIES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/usr/share/zoneinfo",
    "/etc/localtime",
)
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
FIRST_USER, USERS = 61184, 4336  # user ids that no account has: systemd's range for dynamic users
_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mounts, names, IPC, processes, network
_USER = 0x10000000
_PRIVATE, _RECURSIVE, _BIND = 1 << 18, 1 << 14, 1 << 12
_READ_ONLY, _NO_SUID, _NO_DEVICES, _NO_EXECUTION = 1, 2, 4, 8

# System calls by number on x86-64 and AArch64; -1 where there is none.
_REFUSED = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "fork": (57, -1), "vfork": (58, -1), "execve": (59, 221), "execveat": (322, 281),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "migrate_pages": (256, 238), "move_pages": (279, 239), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "syslog": (103, 116),
    "shmget": (29, 194), "shmat": (30, 196), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "personality": (135, 92), "acct": (163, 89), "reboot": (169, 142),
    "swapon": (167, 224), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274), "truncate": (76, 45), "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, -1), "fchown": (93, 55), "lchown": (94, -1), "fchownat": (260, 54),
    "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88), "setxattr": (188, 5),
    "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "inotify_init": (253, -1), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27), "fanotify_init": (300, 262),
}  # fmt: skip
_UNKNOWN = {"clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427)}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_LANDLOCK_FILES = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 5: 0xFFFF}  # rights by version; a newer version is used as the last one
_READ_FILE, _READ_FOLDER, _READ_AND_WRITE_FILE = 0b101, 0b1101, 0b110


@dataclass(frozen=True)
class Order:
    """What the process is to be.

    Attributes:
        means: which of MEANS to use.
        folder: of this process alone. In it are `code`, with the study's files, and `scratch` and `root`, both empty.
        hidden: files that it must not be able to open.
        port, socket: a TCP port of this machine, and an abstract socket's name, on which the site listens; the process must not
            reach them.
        parent: number of the site's process.
        memory: bytes of address space.
        files: open files.
        file_bytes: bytes of each file, and of all files in scratch.
        threads: at most.
        commands, answers, life, data: descriptors.
    """

    means: Sequence[str]
    folder: str
    hidden: Sequence[str]
    port: int
    socket: str
    parent: int
    memory: int
    files: int
    file_bytes: int
    threads: int
    commands: int
    answers: int
    life: int
    data: int


@dataclass
class Report:
    """Which means of confinement are in use, and what they failed to prevent.

    Attributes:
        means: those in use.
        lacks: why others are not in use.
        leaks: what was possible that should not be.
        mounted: whether there is a file system of its own.
        user: the user id that it takes; None to keep the site's.
        own_users: whether there is a namespace of users.
    """

    means: list[str] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)
    leaks: dict[str, str] = field(default_factory=dict)
    mounted: bool = False
    user: int | None = None
    own_users: bool = False

    def attempt(self, order: Order, name: str, take: Callable[[], str]) -> None:
        """Try one of the means, and note whether it is in use, or why not."""
        if name not in order.means:
            self.lacks[name] = "not asked for"
            return
        try:
            self.means.append(take())
        except (OSError, AttributeError, KeyError, ValueError) as error:
            self.lacks[name] = f"{type(error).__name__}: {error}"


# The system's calls.


@cache
def _library() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _control(option: int, *values: int) -> int:
    """prctl."""
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _checked("prctl", _library().prctl(option, *arguments))


def _system(number: int, *values: object) -> int:
    """A system call that the C library has no function for."""
    arguments = [ctypes.c_long(value) if isinstance(value, int) else value for value in values]
    return _checked(f"system call {number}", _library().syscall(ctypes.c_long(number), *arguments))


def _machine() -> tuple[int, int]:
    """The column of the table of system calls, and the kernel's number of the architecture. Raises OSError for another one."""
    name = os.uname().machine
    if sys.platform != "linux" or name not in _MACHINES or struct.calcsize("P") != 8:
        raise OSError(f"not known on {sys.platform} {name}")
    return _MACHINES[name]


# Namespaces.


def _readable(order: Order) -> list[str]:
    """What the process needs to read, without what lies within another; links are followed."""
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.path.dirname(os.path.realpath(sys.executable)))
    named = {*own, *sys.path, *LIBRARIES, f"{order.folder}/code"}
    found = sorted({os.path.realpath(path) for path in named if os.path.exists(path)} - {"/"})
    return [path for path in found if not any(path.startswith(f"{other}/") for other in found)]


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = [text.encode() for text in (source, target, kind)]
    _checked(f"mount {target}", _library().mount(*arguments, ctypes.c_ulong(flags), options.encode()))


def _fix(target: str, attributes: int, recursive: bool = True) -> None:
    """mount_setattr: add attributes to a mount, and to those below it."""
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    _system(442, -100, target.encode(), 0x8000 if recursive else 0, wanted, len(wanted))


def _separate(order: Order, report: Report) -> str:
    """Make new namespaces and a file system of its own in them. Done before the inner process is made."""
    column, _ = _machine()
    user, group = os.getuid(), os.getgid()
    for flags in (_NAMESPACES, _NAMESPACES | _USER) if user == 0 else (_NAMESPACES | _USER,):
        result = _library().unshare(flags)
        if result == 0:
            break
    _checked("unshare", result)
    report.own_users = bool(flags & _USER)
    if report.own_users:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _take_user(order, report, mounts=True)
    _new_root(order, report.user if report.user is not None else user, (155, 41)[column])
    report.mounted = True
    return "namespaces of users, files, network, processes" if report.own_users else "namespaces of files, network, processes"


def _new_root(order: Order, user: int, pivot_root: int) -> None:
    """Replace the file system by one that holds what the process may read."""
    root = f"{order.folder}/root"
    _mount("none", "/", "none", _RECURSIVE | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NO_SUID | _NO_DEVICES, "size=1m,mode=755")
    folders = _readable(order)
    for path in (*folders, *filter(os.path.exists, DEVICES)):
        _make(root + path, os.path.isdir(path))
        _mount(path, root + path, "none", _BIND | _RECURSIVE)
        _fix(root + path, _NO_SUID | (_READ_ONLY | _NO_DEVICES if path in folders else _NO_EXECUTION))
    for name, path in _links(order):
        place = os.path.dirname(root + name)
        os.makedirs(place, exist_ok=True)
        if os.path.realpath(place) == place and not os.path.lexists(root + name):  # never through a link that was just made
            os.symlink(path, root + name)
    scratch = f"{root}{order.folder}/scratch"
    os.makedirs(scratch)
    own = f"size={order.file_bytes},nr_inodes=1024,mode=700,uid={user},gid={user if user != os.getuid() else os.getgid()}"
    _mount("tmpfs", scratch, "tmpfs", _NO_SUID | _NO_DEVICES | _NO_EXECUTION, own)
    _fix(root, _READ_ONLY, recursive=False)
    os.chdir(root)
    _system(pivot_root, b".", b".")
    _checked("umount", _library().umount2(b".", 2))
    os.chdir("/")


def _make(path: str, folder: bool) -> None:
    """A place to mount on."""
    os.makedirs(path if folder else os.path.dirname(path), exist_ok=True)
    if not folder:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _links(order: Order) -> Iterator[tuple[str, str]]:
    """Symbolic links to what the process may read: each link and where it leads. They are made anew inside."""
    for name in sorted({sys.prefix, sys.base_prefix, *sys.path, *LIBRARIES, order.folder}):
        path = os.path.realpath(name)
        if name != path and os.path.isabs(name) and os.path.exists(path):
            yield os.path.normpath(name), path


def _take_user(order: Order, report: Report, mounts: bool) -> None:
    """If the site is root, give the inner process a user id that nobody else has. Not if it could not read the interpreter
    then.
    """
    if os.getuid() != 0 or report.own_users:
        return
    if "user" not in order.means:
        report.lacks["user"] = "not asked for"
        return
    own = (os.path.realpath(path) for path in (__file__, os.__file__, ctypes.__file__))
    if not all(os.stat(path).st_mode & 0o4 for path in own) or not (mounts or all(map(_open_to_all, _readable(order)))):
        report.lacks["user"] = "the interpreter is root's alone"
        return
    user = FIRST_USER + os.getpid() % USERS
    try:
        for path, _, files in os.walk(order.folder):
            for name in (path, *(f"{path}/{file}" for file in files if file != "canary")):
                os.chown(name, user, user)
    except OSError as error:  # root in a container without this user id
        report.lacks["user"] = str(error)
        return
    report.user = user


def _open_to_all(path: str) -> bool:
    """Whether everybody may enter each folder on the way to it."""
    parts = path.split("/")
    return all(os.stat("/".join(parts[:count]) or "/").st_mode & 0o1 for count in range(1, len(parts)))


# Landlock, see the kernel's documentation, "Landlock: unprivileged access control".


def _landlock(order: Order, report: Report) -> str:
    version = _system(444, 0, 0, 1)
    known = _LANDLOCK_FILES[max(number for number in _LANDLOCK_FILES if number <= version)]
    sizes = 8 if version < 4 else 16 if version < 6 else 24
    attributes = struct.pack("QQQ", known, 0b11, 0b11)[:sizes]
    rules = _system(444, attributes, sizes, 0)
    for path in _readable(order):
        _allow(rules, path, _READ_FOLDER if os.path.isdir(path) else _READ_FILE)
    for path in filter(os.path.exists, DEVICES):
        _allow(rules, path, _READ_AND_WRITE_FILE)
    if report.mounted:
        _allow(rules, f"{order.folder}/scratch", known & ~0b1)
    _system(446, rules, 0)
    os.close(rules)
    return f"Landlock {version}"


def _allow(rules: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    _system(445, rules, 1, struct.pack("=Qi", rights, descriptor), 0)
    os.close(descriptor)


# Seccomp: a program of the classic packet filter, over (number, architecture, instruction, arguments) of each system call.


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def _filter(column: int, architecture: int, process: int) -> bytes:
    """The filter program: it refuses what is listed, and allows the rest."""
    refuse, not_there = _step(_RETURN, _ERROR | 1), _step(_RETURN, _ERROR | 38)
    program = [_step(_LOAD, 4), _step(_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0)]
    if column == 0:
        program += [_step(_AT_LEAST, 0x40000000, 0, 1), refuse]
    for numbers, answer in (*((n, refuse) for n in _REFUSED.values()), *((n, not_there) for n in _UNKNOWN.values())):
        if numbers[column] != -1:
            program += [_step(_EQUAL, numbers[column], 0, 1), answer]
    # With a condition on one argument: (call, argument, test, value, whether the call is allowed if the test holds)
    conditions = (
        ((56, 220), 0, _ANY_BIT, 0x10000, True),  # clone: threads
        ((234, 131), 0, _EQUAL, process, True),  # tgkill: to itself
        ((302, 261), 0, _EQUAL, 0, True),  # prlimit64: of itself
        ((203, 122), 0, _EQUAL, 0, True),  # sched_setaffinity: of itself
        ((157, 167), 0, _EQUAL, 1, False),  # prctl: to outlive the keeper
        ((72, 25), 1, _EQUAL, 8, False),  # fcntl: signals to another process, F_SETOWN
        ((72, 25), 1, _EQUAL, 15, False),  # F_SETOWN_EX
    )
    for calls, argument, test, value, allowed in conditions:
        program += [
            _step(_EQUAL, calls[column], 0, 4),
            _step(_LOAD, 16 + 8 * argument),
            _step(test, value, int(allowed), int(not allowed)),
            refuse,
            _step(_LOAD, 0),
        ]
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _seccomp() -> str:
    program = _filter(*_machine(), os.getpid())
    held = ctypes.create_string_buffer(program, len(program))
    pointed = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held))
    described = ctypes.create_string_buffer(pointed, len(pointed))
    _control(22, 2, ctypes.addressof(described))
    return "seccomp"


# The two processes.


def main(text: str) -> None:
    """Become the keeper and the inner process; see the module. Does not return.

    Args:
        text: an `Order` as JSON.
    """
    order, report = Order(**json.loads(text)), Report()
    report.attempt(order, "namespaces", lambda: _separate(order, report))
    if not report.mounted:
        report.user = None
        _take_user(order, report, mounts=False)
    process = os.fork()
    if process:
        _keep(order, process)
    else:
        _inner(order, report)


def _keep(order: Order, process: int) -> None:
    """Wait until the site ends this process, or ends itself; then kill the inner process and all it has left. Between answers
    the inner process is stopped.
    """
    for descriptor in (order.commands, order.answers, order.data):
        os.close(descriptor)
    os.dup2(0, 1)
    os.dup2(0, 2)
    while (word := os.read(order.life, 1)) not in (b"", b"k"):
        os.kill(process, signal.SIGSTOP if word == b"s" else signal.SIGCONT)
    for number in (-process, process):  # its group, if it got as far as making one, and itself
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _inner(order: Order, report: Report) -> None:
    """Confine this process, say how well, and go on as what it was started for."""
    os.setsid()
    kept = sorted({0, 1, 2, order.commands, order.answers, order.data})
    for low, high in zip(kept, [*kept[1:], 1 << 20], strict=True):
        os.closerange(low + 1, high)
    os.chdir(f"{order.folder}/code")
    _limit(order)
    if report.user is not None:
        os.setgroups([])
        os.setresgid(*[report.user] * 3)
        os.setresuid(*[report.user] * 3)
        report.means.append(f"user {report.user}")
    if sys.platform == "linux":
        _give_up()
    report.attempt(order, "landlock", lambda: _landlock(order, report))
    report.attempt(order, "seccomp", _seccomp)
    report.leaks = dict(_leaks(order, kept))
    told = json.dumps({"means": report.means, "lacks": report.lacks, "leaks": report.leaks, "arrays": []}).encode()
    os.write(order.answers, struct.pack("<I", len(told)) + told)
    from manent.network.sandbox.inside import serve

    serve(order.commands, order.answers, order.data)


def _limit(order: Order) -> None:
    limits = (
        ("RLIMIT_AS", order.memory), ("RLIMIT_FSIZE", order.file_bytes), ("RLIMIT_NOFILE", order.files),
        ("RLIMIT_NPROC", order.threads), ("RLIMIT_CORE", 0), ("RLIMIT_MEMLOCK", 0), ("RLIMIT_MSGQUEUE", 0),
    )  # fmt: skip
    import resource  # Windows lacks it

    for name, value in limits:
        number = getattr(resource, name, None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            with suppress(ValueError, OSError):  # macOS does not support all of them
                resource.setrlimit(number, (most, most))


def _give_up() -> None:
    """Give up all capabilities and every way to more, forbid dumps of memory, and end with the keeper."""
    if os.uname().machine in _MACHINES:
        _system((126, 91)[_machine()[0]], struct.pack("Ii", 0x20080522, 0), struct.pack("IIIIII", *[0] * 6))
    _control(38, 1)  # PR_SET_NO_NEW_PRIVS
    _control(4, 0)  # PR_SET_DUMPABLE
    _control(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# Tried from inside: what should not be possible.


def _leaks(order: Order, kept: Sequence[int]) -> Iterator[tuple[str, str]]:
    """What is possible that should not be, by subject."""
    for path in order.hidden:
        if _can(lambda path=path: os.close(os.open(path, os.O_RDONLY))):  # type: ignore[misc]
            yield "files", f"{path} can be read"
            break
    if _can(lambda: os.close(os.open(f"{order.folder}/code/new", os.O_CREAT | os.O_WRONLY))):
        yield "written files", "the folder of the code can be written to"
    if _can(lambda: os.chmod(f"{order.folder}/canary", 0o600)):
        yield "modes", "modes of files can be changed"
    if any(_can(lambda to=to: _connect(order, to)) for to in ("tcp", "udp", "unix")):  # type: ignore[misc]
        yield "network", "this machine can be reached"
    if _can(_fork):
        yield "new processes", "a process can be started"
    if order.parent != os.getpid() and _can(lambda: os.kill(order.parent, 0)):
        yield "other processes", "the site's process can be signalled"
    extra = sorted(set(os.environ) - {*ENVIRONMENT, "LC_CTYPE"})
    if extra:
        yield "environment", f"{', '.join(extra)[:100]} can be read"
    opened = [number for number in range(1024) if number not in kept and _can(lambda n=number: os.fstat(n))]  # type: ignore[misc]
    if opened:
        yield "descriptors", f"{opened} are open"


def _can(act: Callable[[], object]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def _connect(order: Order, to: str) -> None:
    if to == "unix":
        with socket.socket(socket.AF_UNIX) as found:
            found.settimeout(2)
            found.connect(f"\0{order.socket}")
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if to == "tcp" else socket.SOCK_DGRAM) as found:
        found.settimeout(2)
        found.connect(("127.0.0.1", order.port))
        found.send(b"")


def _fork() -> None:
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)


if __name__ == "__main__":
    main(sys.argv[1])
