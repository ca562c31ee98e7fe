"""A server and four sites, each in a network namespace of its own, over links that lose and delay packets, and break.

    python benchmarks/namespaces.py [--loss 0.05] [--delay 0.05] [--cut 20] [--rounds 6] [--json]

It runs as root on Linux, with `ip` and /dev/net/tun. Each link is a pair of TUN devices, one in the server's namespace and one in
the site's. This process carries the packets between them, and loses and delays them in both directions, so no kernel module such
as netem is needed. During the study, the device of one site is down for `--cut` seconds; later another's packets vanish for as
long, and neither end is told. Kernel, TCP, TLS, server and sites are real.

The study trains on heart disease with secure aggregation and no noise. `model_equal` says whether its result equals the
simulation's to the last bit, `history_equal` whether each round's row does. `slower` is the time of the study with both cuts,
over its time on links that lose and delay nothing. Where it cannot run, it prints why, and keeps nothing.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import heapq
import json
import os
import random
import selectors
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import keep, show
from crash import HEAD, LOAD, SITES, TRAINING
from safetensors.numpy import load_file

import manent as mn
from manent.app.demo.processes import Processes, rows
from manent.app.study.file import load_study

TUN, IFF_TUN_NO_PI, TUNSETIFF = "/dev/net/tun", 0x1001, 0x400454CA
PREFIX, SERVER, PORT = "manent", "10.77.99.1", 8443


def lacking() -> str | None:
    """Why this cannot run here; None if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "ip is not installed (Debian's package iproute2)"
    try:
        os.close(os.open(TUN, os.O_RDWR))
        ip("netns", "add", f"{PREFIX}-try")
        ip("netns", "delete", f"{PREFIX}-try")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this system does not let one make devices and namespaces: {error}"
    return None


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


class Link:
    """Two TUN devices in two namespaces."""

    def __init__(self, number: int) -> None:
        self.number, self.space, self.cut = number, f"{PREFIX}-{number}", False
        near, far = f"mns{number}", f"mnt{number}"
        self.ends = (_device(near), _device(far))
        ip("link", "set", near, "netns", f"{PREFIX}-server")
        ip("link", "set", far, "netns", self.space)
        here, there = f"10.77.{number}.1", f"10.77.{number}.2"
        ip("-n", f"{PREFIX}-server", "address", "add", here, "peer", there, "dev", near)
        ip("-n", f"{PREFIX}-server", "link", "set", near, "up")
        ip("-n", self.space, "address", "add", there, "peer", here, "dev", far)
        self.far = far
        self.up()

    def up(self) -> None:
        ip("-n", self.space, "link", "set", self.far, "up")
        ip("-n", self.space, "route", "replace", "default", "dev", self.far)

    def down(self) -> None:
        ip("-n", self.space, "link", "set", self.far, "down")


def _device(name: str) -> int:
    end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN_NO_PI))
    return end


class Carrier(threading.Thread):
    """Carries packets between the two ends of each link, and loses and delays them."""

    def __init__(self, links: list[Link], loss: float, delay: float) -> None:
        super().__init__(daemon=True)
        self.links, self.loss, self.delay = links, loss, delay
        self.carried = self.lost = 0
        self.stopping = False
        self._chance = random.Random(0)
        self._waiting: list[tuple[float, int, int, bytes]] = []  # when, number, to which end, packet

    def run(self) -> None:
        ready = selectors.DefaultSelector()
        for link in self.links:
            for end, other in (link.ends, link.ends[::-1]):
                ready.register(end, selectors.EVENT_READ, (link, other))
        while not self.stopping:
            wait = self._waiting[0][0] - time.monotonic() if self._waiting else 0.1
            for key, _ in ready.select(min(max(wait, 0.0), 0.1)):
                self._take(key.fd, *key.data)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self._waiting)
                _passing(os.write, end, packet)

    def _take(self, end: int, link: Link, other: int) -> None:
        while packet := _passing(os.read, end, 65536):
            if link.cut or self._chance.random() < self.loss:
                self.lost += 1
                continue
            self.carried += 1
            # Half of the delay to one and a half of it: packets overtake each other.
            late = time.monotonic() + self.delay * (0.5 + self._chance.random())
            heapq.heappush(self._waiting, (late, self.carried, other, packet))


def _passing(call: Any, end: int, value: Any) -> Any:
    """What a call on a device gives; None if nothing can pass at the moment, or the device is down."""
    try:
        return call(end, value)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EIO, errno.ENETDOWN, errno.EBADFD):
            raise
        return None


class Spaces:
    """The namespaces, their links, and what runs in them. Use it in a `with`, which removes all of it at the end."""

    def __init__(self, folder: Path, loss: float, delay: float) -> None:
        self.folder, self.loss, self.delay = folder, loss, delay
        self.processes = Processes(folder)

    def __enter__(self) -> Spaces:
        self._remove()
        for name in self._names():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", f"{PREFIX}-server", "address", "add", f"{SERVER}/32", "dev", "lo")
        self.links = [Link(number) for number in range(len(SITES))]
        self.carrier = Carrier(self.links, self.loss, self.delay)
        self.carrier.start()
        self.processes.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.processes.__exit__(*error)
        self.carrier.stopping = True
        self.carrier.join()
        for link in self.links:
            for end in link.ends:
                os.close(end)
        self._remove()

    def _names(self) -> list[str]:
        return [f"{PREFIX}-server", *(f"{PREFIX}-{number}" for number in range(len(SITES)))]

    def _remove(self) -> None:
        for name in self._names():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=30)

    def start(self) -> None:
        """Start the server, and with its invitation the sites."""
        where = ("--folder", "srv", "--host", "0.0.0.0", "--port", str(PORT), "--url", f"https://{SERVER}:{PORT}")
        server = ("ip", "netns", "exec", f"{PREFIX}-server")
        self.processes.start("server", "serve", "training.py", *where, through=server)
        invitation = self.folder / "srv" / "invitation.txt"
        self.processes.wait(invitation.exists, 120, "The server's invitation")
        for number, name in enumerate(SITES):
            data = ("--data", f"load{number}.py:load", "--folder", name, "--name", name)
            site = ("ip", "netns", "exec", f"{PREFIX}-{number}")
            self.processes.start(name, "join", invitation.read_text().strip(), *data, through=site)

    @property
    def released(self) -> int:
        return (self.folder / "server.log").read_text().count('"message": "sum over"')

    def wait_for(self, sums: int) -> None:
        self.processes.wait(lambda: self.released >= sums, 600, f"{sums} sums", tuple(self.processes.running))

    def result(self) -> Path:
        found = self.folder / "srv" / "results"
        self.processes.wait(lambda: any(found.glob("*/study.json")), 900, "The end of the study", ("server",))
        return next(found.glob("*/study.json")).parent


def course(folder: Path, rounds: int, loss: float, delay: float, cut: float) -> dict[str, Any]:
    """Run one study, with both cuts if `cut` is not 0."""
    folder.mkdir()
    (folder / "training.py").write_text(HEAD + TRAINING.format(rounds=rounds))
    for number in range(len(SITES)):
        (folder / f"load{number}.py").write_text(LOAD.format(index=number))
    with Spaces(folder, loss, delay) as spaces:
        spaces.start()
        spaces.wait_for(1)
        began = time.monotonic()
        if cut:
            _cuts(spaces, cut)
        found = spaces.result()
        seconds = time.monotonic() - began
        of = {"seconds": round(seconds, 1), "packets": spaces.carrier.carried, "packets_lost": spaces.carrier.lost}
    declared = load_study(folder / "training.py")
    run = mn.simulate(declared.study, declared.data, seed=0, workers=0)
    model, history = load_file(found / "result.safetensors")["model"], list(rows(found / "history.jsonl"))
    equal = {"model_equal": model.tobytes() == run.result["model"].tobytes(), "history_equal": history == run.history}
    return {**of, **equal, "sums": len(history), "abandoned": sum("abandoned" in row for row in history)}


def _cuts(spaces: Spaces, seconds: float) -> None:
    """Set one site's device down for a while; then let another's packets vanish."""
    spaces.links[1].down()
    time.sleep(seconds)
    spaces.links[1].up()
    spaces.wait_for(spaces.released + 1)
    spaces.links[2].cut = True
    time.sleep(seconds)
    spaces.links[2].cut = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", type=float, default=0.05, help="share of packets that are lost, in each direction")
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that a packet takes, on average")
    parser.add_argument("--cut", type=float, default=20.0, help="seconds that each of two links is cut")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if (reason := lacking()) is not None:
        print(json.dumps({"skipped": reason}) if chosen.json else f"Skipped: {reason}.")
        return
    with tempfile.TemporaryDirectory() as temporary:
        calm = course(Path(temporary) / "calm", chosen.rounds, 0.0, 0.0, 0.0)
        rough = course(Path(temporary) / "rough", chosen.rounds, chosen.loss, chosen.delay, chosen.cut)
    of = {"loss": chosen.loss, "delay_s": chosen.delay, "cut_s": chosen.cut, "rounds": chosen.rounds, "sites": len(SITES)}
    values = {**of, **rough, "calm": calm, "slower": round(rough["seconds"] / max(calm["seconds"], 0.1), 2)}
    keep("namespaces", values, chosen.json)
    if not chosen.json:
        show("network namespaces", ("measure", "value"), list(values.items()))


if __name__ == "__main__":
    main()
