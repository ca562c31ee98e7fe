"""One round of federated averaging over a real SuperLink of Flower, whose nodes are threads of this process. Linux only.

    python flower_link.py [--sites 100] [--size 262144] [--state database] [--seconds 240]

The SuperLink is Flower's command, without TLS, and starts the ServerApp, which is in this file and runs Flower's FedAvg. A node
has Flower's connection of a SuperNode: it registers itself, signs the time of each request, sends heartbeats, asks for messages
every 3 seconds, takes the model, and answers with an update drawn at random. It has no ClientApp, and does not fetch the app. It
leaves at an error, where a SuperNode would stay and the round wait for it to the end. `--state memory` is Flower's own default.

Tells one JSON object as the last line. `updates_per_second`, `round_s`: from the first request that brought a node its message to
the last acknowledged update; `aggregated_s`: to the mean. `p50_s`, `p99_s`: of one node's update, from that request on.
`server_memory_mb`: the largest resident set of the SuperLink; `server_processes_memory_mb`: the sum of those of the processes
that it starts. `server_cpu_s`: of all of these, in the round. `failed`: nodes whose update is not in the mean.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import quantiles
from typing import Any, NoReturn

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}

import httpx
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.clientapp import ClientApp
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable import inflatable_object, inflatable_utils
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supernode import fleet_http_connection

ARRIVING = 40.0  # nodes in a second, as sites of `load_sites.py`
POLL = 3.0  # seconds that a SuperNode sleeps when there is no message for it
SPARED = 15.0  # seconds before the limit at which a round is given up, so that what has come is still told
TICK = os.sysconf("SC_CLK_TCK")
SIGNALS = (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
APP = """
project = { name = "load", version = "1.0.0" }
tool.flwr.app.publisher = "load"
tool.flwr.app.components = { serverapp = "flower_link:server", clientapp = "flower_link:client" }
"""

server, client = ServerApp(), ClientApp()  # an app must name both


class Counted(FedAvg):
    """FedAvg that counts the updates in its mean."""

    included = 0

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        self.included = sum(not reply.has_error() for reply in replies)
        return super().aggregate_train(server_round, replies)


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """One round, begun when told; the process stays until its memory has been read."""
    told, sites = context.run_config, int(context.run_config["sites"])
    folder, model = Path(str(told["folder"])), ArrayRecord([np.zeros(int(told["size"]), np.float32)])
    strategy = Counted(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    (folder / "ready").touch()
    while not (folder / "begin").exists() and time.time() < float(told["end"]):
        time.sleep(0.05)
    strategy.start(grid, model, num_rounds=1, timeout=float(told["end"]) - time.time())
    (folder / "said").write_text(json.dumps({"included": strategy.included, "at": time.monotonic()}))
    (folder / "said").rename(folder / "done")
    time.sleep(30)


class SuperLink:
    """A SuperLink with what it starts, all known by a folder in their environment, and what the system says of them."""

    def __init__(self, folder: Path, state: str) -> None:
        self.folder, programs, home = folder, Path(sys.executable).parent, f"{folder}/home"
        self.mark = f"FLWR_HOME={home}".encode()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        command = [str(programs / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--disable-runtime-dependency-installation"]
        command += ["--database", f"{folder}/state.db"] if state == "database" else []
        own = {**os.environ, "FLWR_HOME": home, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=own, preexec_fn=leave_with_parent
            )

    def wait(self, what: Callable[[], bool], seconds: float, name: str) -> None:
        end = time.monotonic() + seconds
        while not what():
            if self.process.poll() is not None or time.monotonic() > end:
                ended = "ended" if self.process.poll() is not None else f"was given {seconds:.0f} s"
                lines = (self.folder / "log").read_text(errors="replace").strip().splitlines() or ["nothing said"]
                last = ([line for line in lines if "ERROR" in line] or lines)[-1]
                raise SystemExit(f"{name} was expected, with more --seconds or fewer --sites; flower-superlink {ended}: {last}")
            time.sleep(0.05)

    def healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{self.address}/health").is_success
        return False

    def start_run(self, **config: str | float) -> None:
        """Hand in this file as an app, as `flwr run` does."""
        app = self.folder / "app"
        app.mkdir()
        shutil.copy(__file__, app / "flower_link.py")
        (app / "pyproject.toml").write_text(
            APP + "".join(f"tool.flwr.app.config.{name} = {json.dumps(value)}\n" for name, value in config.items())
        )
        version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
        with ControlHttpClient.from_server_address(self.address, True, None, [version]) as control:
            if not control.StartRun(StartRunRequest(fab=Fab(content=build_fab_from_disk(app)))).HasField("run_id"):
                raise SystemExit("A run was expected to start; see what flower-superlink 1.41 asks of an app.")

    def all(self) -> list[int]:
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # another user's, or gone
                if self.mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
        return found

    def memory(self) -> dict[int, float]:
        of = {pid: Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0] for pid in self.all()}
        return {pid: 1024 * int(kilobytes) / 1e6 for pid, kilobytes in of.items()}

    def cpu(self) -> float:
        of = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in self.all()]
        return sum(int(fields[11]) + int(fields[12]) for fields in of) / TICK

    def stop(self) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # nothing is to cut this short
        while those := self.all():
            for pid in those:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def leave_with_parent() -> None:
    """Have the system end the SuperLink where this process is killed; what the SuperLink started then ends by itself."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def refuse(_: int, message: str) -> NoReturn:
    """Instead of the end of the whole process, with which Flower answers a connection that fails at first."""
    raise ConnectionError(message)


fleet_http_connection.flwr_exit = refuse


class Node(threading.Thread):
    """A SuperNode without its ClientApp: it answers each message with an update drawn at random."""

    def __init__(self, number: int, sites: int, address: str) -> None:
        super().__init__(daemon=True)
        self.number, self.sites, self.address = number, sites, address
        self.connected, self.began, self.acknowledged, self.reason = False, 0.0, 0.0, ""

    def run(self) -> None:
        time.sleep(self.number / ARRIVING)
        try:
            # The connection keeps to itself what ends it once it is open, so an error is noted within.
            with fleet_http_connection.http_request_response(self.address, insecure=True) as connection:
                self.connected = True
                time.sleep(POLL * self.number / self.sites)  # nodes do not all ask at the same time
                self._take_part(*connection)
        except ConnectionError as error:
            self.reason = str(error)

    def _take_part(self, _: int, receive: Any, send: Any, __: Any, ___: Any, pull: Any, push: Any, confirm: Any) -> None:
        """Until an error: then the node leaves, and the round goes on without it."""
        try:
            while True:
                began = time.monotonic()
                if (got := receive()) is None:
                    time.sleep(POLL)
                    continue
                self.began = began
                self._answer(*got, send, pull, push, confirm)
                self.acknowledged = time.monotonic()
        except Exception as error:  # noqa: BLE001 - told as the reason
            self.reason = f"{type(error).__name__}: {error}".splitlines()[0]

    def _answer(self, head: Message, tree: Any, send: Any, pull: Any, push: Any, confirm: Any) -> None:
        run = head.metadata.run_id
        asked = inflatable_utils.pull_and_inflate_object_from_tree(
            tree, lambda id: pull(run, id), lambda id: confirm(run, id), return_type=Message
        )
        asked.metadata.__dict__["_message_id"] = head.metadata.message_id  # not in the message itself; Flower does the same
        size = asked.content["arrays"].to_numpy_ndarrays()[0].size
        drawn = np.random.default_rng(self.number).standard_normal(size, np.float32)
        content = RecordDict({"arrays": ArrayRecord([drawn]), "metrics": MetricRecord({"num-examples": 1})})
        with inflatable_object.no_object_id_recompute():
            reply = Message(content, reply_to=asked)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = inflatable_object.get_all_nested_objects(reply)
            missing, session = send(reply, inflatable_object.get_object_tree(reply), 0.0)
            inflatable_utils.push_objects(objects, lambda id, body: push(run, session, id, body), object_ids_to_push=missing)


def measured(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    end = time.time() + chosen.seconds - SPARED
    link = SuperLink(folder, chosen.state)
    try:
        link.wait(link.healthy, 60, "The start of the SuperLink")
        link.start_run(folder=str(folder), sites=chosen.sites, size=chosen.size, end=end)
        link.wait((folder / "ready").exists, 60, "The start of the ServerApp")
        nodes = [Node(number, chosen.sites, link.address) for number in range(chosen.sites)]
        for node in nodes:
            node.start()
        link.wait(lambda: all(node.connected or node.reason for node in nodes), end - time.time(), "The start of all nodes")
        if reasons := {node.reason for node in nodes if not node.connected}:
            raise SystemExit(f"All nodes were expected to start; use fewer --sites. Some said: {sorted(reasons)[0]}")
        before = link.cpu()
        (folder / "begin").touch()
        link.wait((folder / "done").exists, end + SPARED / 2 - time.time(), "The mean of the updates")
        cpu, memory, said = link.cpu() - before, link.memory(), json.loads((folder / "done").read_text())
    finally:
        link.stop()
    ended, reasons = [node for node in nodes if node.acknowledged], sorted({node.reason for node in nodes if node.reason})[:5]
    if len(ended) < 2:
        raise SystemExit(f"Two acknowledged updates or more were expected, not {len(ended)}; see the reasons: {reasons}")
    first = min(node.began for node in ended)
    whole = max(node.acknowledged for node in ended) - first
    cuts = quantiles((node.acknowledged - node.began for node in ended), n=100, method="inclusive")
    return {
        "sites": chosen.sites,
        "updates_per_second": round(len(ended) / whole, 1),
        "p50_s": round(cuts[49], 2),
        "p99_s": round(cuts[98], 2),
        "server_memory_mb": round(memory.pop(link.process.pid), 1),
        "server_processes_memory_mb": round(sum(memory.values()), 1),
        "server_cpu_s": round(cpu, 1),
        "failed": chosen.sites - said["included"],
        "round_s": round(whole, 1),
        "aggregated_s": round(said["at"] - first, 1),
        "model_mb": round(chosen.size * 4 / 1e6, 2),
        "nodes": "threads",
        "state": chosen.state,
        "reasons": reasons,
    }


def leave(number: int, _: object) -> NoReturn:
    over = number == signal.SIGALRM
    raise SystemExit("The time is over: allow more --seconds, or fewer --sites." if over else "Stopped by a signal.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--size", type=int, default=2**18, help="of the model, in numbers of float32")
    parser.add_argument("--state", choices=("database", "memory"), default="database", help="where the SuperLink has its state")
    parser.add_argument("--seconds", type=float, default=240.0, help="after which this has ended, whatever came of it")
    chosen = parser.parse_args()
    for number in SIGNALS:
        signal.signal(number, leave)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, chosen.seconds - 5))
    with tempfile.TemporaryDirectory() as place:
        print(json.dumps(measured(chosen, Path(place))))


if __name__ == "__main__":
    code = 1
    try:
        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else bool(error.code)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except Exception:  # noqa: BLE001 - told, and then this ends
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)  # threads that still try to reach the SuperLink are not waited for
