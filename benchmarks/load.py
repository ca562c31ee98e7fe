"""Load on a server: how many sites it carries, how fast, and how much memory it takes.

    python benchmarks/load.py [--sites 2000] [--fewer 200] [--megabytes 1] [--sums Plain SecAgg] [--json]
    python benchmarks/load.py --large [--sites 4] [--megabytes 500] [--json]
    python benchmarks/load.py --flower [--sites 100] [--megabytes 1] [--json]

For each kind of sum, the real server (`manent serve`, a process, over TLS) runs a round of `--fewer` sites, and after a fresh
start a round of `--sites`. A few processes with many threads play the sites (`load_sites.py`). Each site has its own key,
connection, signatures and party, and a random update. 40 arrive each second; the sum is opened when all have decided.

`updates_per_second`: acknowledged updates, from the first request of the sum to the last acknowledgement. `p50_s`, `p99_s`:
seconds of one site's update, from its first request of the sum to its acknowledgement. `server_memory_mb`: the largest resident
set of the server since its start; `memory_ratio`: that over the one with fewer sites. `failed`: sites whose update is not in the
released sum.

With `--large`: one round of a large model, each site a process. `server_models` and `site_models` are the largest resident sets
of the server and of a site, as multiples of the model's size.

With `--flower`: a round over a SuperLink of Flower, without TLS, where it is installed (see `peers/flower_link.py`), with its
state in a database, and under `in_memory` in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
from common import RESULTS, keep, show

import manent as mn
from manent.app.demo.processes import Processes, free_port
from manent.core.examples import Schema
from manent.crypto import SigningKey, SystemRandom
from manent.network.server.rosters import Rosters
from manent.network.trust.identity import Identity
from manent.network.trust.join import JoinToken
from manent.network.trust.people import People
from manent.network.trust.roster import Entry, SignedRoster
from manent.network.trust.tls import pinned_context
from manent.network.wire import protocol
from manent.network.wire.bundle import Bundle
from manent.storage import open_store

HERE = Path(__file__).parent
SUMS = ("Plain", "SecAgg")
DRIVERS = 2
MEMORY = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
TICK = os.sysconf("SC_CLK_TCK")
KEYS = ("sites", "updates_per_second", "p50_s", "p99_s", "server_memory_mb", "failed")
COLUMNS = ("sites", "updates_per_second", "p50_s", "p99_s", "server_memory_mb", "memory_ratio", "server_cpu_s", "failed")


def study(size: int, sum: str) -> mn.Study:
    """One round of a model of so many numbers."""
    fedavg = mn.FedAvg(mn.LogisticModel(size - 1), mn.LocalSGD(lr=0.1, steps=1, batch_size=1), weighting="equal")
    if sum == "Plain":
        return mn.Study(fedavg, rounds=1, name="load")
    return mn.Study(fedavg, rounds=1, name="load", summation=mn.SecAgg(dropped=0.05, corrupt=0.05))


class Server:
    """A server process, and what the system reports of it."""

    def __init__(self, processes: Processes, sites: int) -> None:
        self.processes, self.folder, port = processes, processes.folder / "srv", free_port()
        processes.start("server", "serve", "--folder", "srv", "--port", str(port), "--sites", str(sites))
        processes.wait(lambda: "manent join" in (processes.folder / "server.log").read_text(), 90, "The server's invitation")
        self.token = JoinToken.decode((self.folder / "invitation.txt").read_text())
        self.pid = processes.running["server"].pid
        self.person = People(open_store(self.folder / "server.db")).create("load", "researcher")
        self.client = httpx.Client(verify=pinned_context(self.token.pin or ""), timeout=120)
        processes.wait(self._ready, 60, "The server's readiness")

    def _ready(self) -> bool:
        try:
            return self.client.get(f"{self.token.url}/ready").is_success
        except httpx.TransportError:
            return False

    def ask(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        answer = self.client.request(
            method, self.token.url + path, content=body, headers={"Authorization": f"Bearer {self.person}"}
        )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def enrol(self, sites: int) -> list[str]:
        """Put so many new sites on the roster, by the server's own key as in a quick start; their secret seeds in hexadecimal."""
        keys, now = [SigningKey.generate(SystemRandom()) for _ in range(sites)], int(time.time())
        entries = tuple(Entry(f"site{index}", key.public.hex(), now) for index, key in enumerate(keys))
        identity, store = Identity.load(self.folder / "identity.key"), open_store(self.folder / "server.db")
        Rosters(store, identity, None).publish(SignedRoster.sign(identity.signing_key, 1, now, now + 86400, entries), now)
        return [key.seed.hex() for key in keys]

    def submit(self, study: mn.Study, size: int, sites: int) -> str:
        bundle = Bundle.of(study, Schema(shape=(size - 1,), classes=2), "data").sign(SigningKey.generate(SystemRandom()))
        return str(self.ask("POST", f"/v1/studies?sites={sites}", protocol.pack([bundle.encode()]))["hash"])

    @property
    def cpu(self) -> tuple[float, float]:
        """Processor seconds so far: the program's own, and the system's on its behalf."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) / TICK, int(fields[12]) / TICK

    def status(self, name: str) -> int:
        """Bytes of memory under a name in the system's status file of a process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Sites:
    """The processes that play sites, and what they said."""

    def __init__(self, folder: Path, token: JoinToken, seeds: list[str], processes: int) -> None:
        self.said: list[dict[str, Any]] = []
        self.failed = False
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        share = -(-len(seeds) // processes)
        for first in range(0, len(seeds), share):
            own = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            of = (str(folder / str(first)), str(first), str(len(seeds)))
            process = subprocess.Popen(
                [sys.executable, str(HERE / "load_sites.py"), *of],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=own,
            )
            self._processes.append(process)
            assert process.stdin
            process.stdin.write("\n".join([token.encode(), *seeds[first : first + share]]))
            process.stdin.close()
            self._readers.append(threading.Thread(target=self._read, args=(process,), daemon=True))
            self._readers[-1].start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            self.said.append(json.loads(line))
        self.failed = self.failed or process.wait() != 0

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for reader in self._readers:
            reader.join(max(0.0, end - time.monotonic()))
        for process in self._processes:
            process.kill()

    def those(self, name: str) -> list[dict[str, Any]]:
        return [said for said in list(self.said) if name in said]


def carried(sites: int, size: int, sum: str, seconds: float, drivers: int, kept: Path | None) -> dict[str, Any]:
    """One round of so many sites, played by so many processes, with a server of its own."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory(dir=kept) as memory:  # noqa: SIM117 - in order
        with Processes(Path(place)) as processes:
            server = Server(processes, sites)
            hash = server.submit(study(size, sum), size, sites)
            played = Sites(Path(memory), server.token, server.enrol(sites), drivers)
            while len(played.those("ready")) < drivers:
                time.sleep(0.2)
                processes.check()
                if played.failed:
                    raise SystemExit("A process of sites has failed; see above.")
            before = server.cpu
            played.wait(seconds)
            told = server.ask("GET", f"/v1/studies/{hash}")
            peak, cpu, now = server.status("VmHWM"), server.cpu, server.status("VmRSS")
            if os.environ.get("LOAD_LOG"):
                print(processes.tail("server", 20), file=sys.stderr)
    ended = played.those("began")
    if not any(one["acknowledged"] for one in ended):
        raise SystemExit(f"No update was acknowledged; the study is {told['phase']} ({told['reason']}): {ended[:3]}")
    times = sorted(one["acknowledged"] - one["began"] for one in ended if one["acknowledged"])
    whole = max(one["acknowledged"] for one in ended) - min(one["began"] for one in ended if one["began"])
    cuts = quantiles(times, n=100, method="inclusive")
    return {
        "sites": sites,
        "updates_per_second": round(len(times) / whole, 1),
        "p50_s": round(cuts[49], 2),
        "p99_s": round(cuts[98], 2),
        "server_memory_mb": round(peak / 1e6, 1),
        "server_memory_after_mb": round(now / 1e6, 1),
        "site_process_memory_mb": round(max((one["memory_mb"] for one in played.those("memory_mb")), default=0.0), 1),
        "server_cpu_s": round(cpu[0] + cpu[1] - before[0] - before[1], 1),
        "server_system_s": round(cpu[1] - before[1], 1),
        "sites_cpu_s": round(sum_of(played, "cpu"), 1),
        "failed": sites - builtin_sum(one["included"] for one in ended),
        "round_s": round(whole, 1),
        "requests": round(sum_of(played, "requests")),
        "tried_again": round(sum_of(played, "away")),
        "phase": told["phase"],
        "reasons": sorted({one["reason"] for one in ended if one["reason"]})[:5],
    }


builtin_sum = sum


def sum_of(played: Sites, name: str) -> float:
    return float(builtin_sum(one[name] for one in played.those(name)))


def many(chosen: argparse.Namespace) -> dict[str, Any]:
    """Each kind of sum, with few sites and with many."""
    size, found = round((chosen.megabytes or 1.0) * 2**20 / 4), {}
    sites = chosen.sites or 2000
    for name in chosen.sums:
        few = carried(chosen.fewer, size, name, chosen.seconds, DRIVERS, MEMORY) if chosen.fewer else {}
        print(few, file=sys.stderr, flush=True)
        found[name] = carried(sites, size, name, chosen.seconds, DRIVERS, MEMORY)
        print(found[name], file=sys.stderr, flush=True)
        if few:
            found[name] |= {"memory_ratio": round(found[name]["server_memory_mb"] / few["server_memory_mb"], 2), "fewer": few}
    first = found[chosen.sums[0]]
    return {**{name: first[name] for name in KEYS}, "model_mb": round(size * 4 / 1e6, 2), **found}


def large(chosen: argparse.Namespace) -> dict[str, Any]:
    """One large model, each site a process with its files on a disk."""
    size, sites = round((chosen.megabytes or 500.0) * 1e6 / 4), chosen.sites or 4
    found = carried(sites, size, "Plain", chosen.seconds, sites, None)
    model = size * 4 / 1e6
    in_models = {
        "model_mb": model,
        "server_models": round(found["server_memory_mb"] / model, 2),
        "site_models": round(found["site_process_memory_mb"] / model, 2),
    }
    return {"large": {**found, **in_models}}


def flower(chosen: argparse.Namespace) -> dict[str, Any]:
    """One round over a SuperLink of Flower, in its own environment."""
    python = HERE.parent / ".venv-peers" / "bin" / "python"
    if not (python.parent.parent / ".installed").exists():
        raise SystemExit("Flower is not installed (.venv-peers; see make peers).")
    command = [str(python), str(HERE / "peers" / "flower_link.py"), "--sites", str(chosen.sites or 100)]
    command += ["--size", str(round((chosen.megabytes or 1.0) * 2**20 / 4)), "--seconds", str(min(chosen.seconds, 240.0))]
    found = {}
    for state in ("database", "memory"):  # as manent keeps its own, then as Flower does unless asked
        done = subprocess.run([*command, "--state", state], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit("The round over a SuperLink has failed; see above.")
        found[state] = json.loads(done.stdout.splitlines()[-1])
        print(found[state], file=sys.stderr, flush=True)
    return {"flower": {**found["database"], "in_memory": found["memory"]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, help="2,000, or 4 with a large model, or 100 with Flower")
    parser.add_argument("--fewer", type=int, default=200, help="sites with which memory is compared; 0 leaves it out")
    parser.add_argument("--megabytes", type=float, help="of the model, in float32")
    parser.add_argument("--sums", nargs="+", choices=SUMS, default=["Plain"])
    parser.add_argument("--large", action="store_true", help="one large model, and few sites")
    parser.add_argument("--flower", action="store_true", help="a SuperLink of Flower in place of manent's server")
    parser.add_argument("--seconds", type=float, default=600.0, help="that a round may take")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    chosen = parser.parse_args()
    found = flower(chosen) if chosen.flower else large(chosen) if chosen.large else many(chosen)
    whole = chosen.megabytes is None and chosen.sites is None
    path = RESULTS / "load.json"
    before = json.loads(path.read_text()) if whole and path.exists() else {}
    rows = [(name, *(of.get(column, "") for column in COLUMNS)) for name, of in found.items() if isinstance(of, dict)]
    show(f"A round on {os.cpu_count()} cores", ("sum", *COLUMNS), rows)
    keep("load" if whole else None, {**before, **found}, chosen.json)


if __name__ == "__main__":
    main()
