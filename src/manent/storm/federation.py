"""A whole federation on a virtual clock: the server's and the sites' own code, over a network that fails as told.

Requests are real ones: signed, and answered by the server's ASGI application. Its store, its round service, and each site's agent
with its folder are those of a deployment. Only time, randomness, threads and the wire are the simulation's, all from one seed.

Each site holds one row, with its own number, and studies count these rows. So a released sum is one-hot: it shows which sites are
in it, and how often.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import httpx
import numpy as np

from manent.analytics import Histogram
from manent.core.examples import Client, Column, Examples, Schema
from manent.core.protocols import Summation, SummationTraits, traits
from manent.core.randomness import repeatable, repeatable_seed
from manent.core.store import Store
from manent.core.study import Cohort, Study
from manent.crypto import InsecureTestRNG
from manent.network.server.http.app import application
from manent.network.server.rounds import Settings
from manent.network.server.service import Service
from manent.network.server.submitting import submit
from manent.network.site.agent import Agent
from manent.network.site.joining import quick_policy
from manent.network.site.machine import Machine
from manent.network.site.state import IDENTITY, Server, SiteState
from manent.network.trust.identity import Identity
from manent.network.trust.join import JoinToken
from manent.network.trust.roster import SignedRoster
from manent.network.wire.bundle import Bundle
from manent.storage import MemoryStore
from manent.storage.blobs import Blobs
from manent.storm.faults import Faults
from manent.storm.stage import Stage, Troupe
from manent.storm.watching import Watch

URL, EPOCH, YEAR = "https://server.test", 1_800_000_000, 365 * 86400
TICK = 1.0  # seconds
COLUMN = "number"


@dataclass(frozen=True)
class Cut:
    """From one second to another these sites cannot reach the server; None for all sites."""

    start: float
    end: float
    sites: Sequence[int] | None = None

    def holds(self, now: float, site: int) -> bool:
        """Whether this site is cut off now."""
        return self.start <= now < self.end and (self.sites is None or site in self.sites)


@dataclass(frozen=True)
class Weather:
    """What goes wrong. Everything is off unless given.

    Attributes:
        faults: for each request: `drop`, `lost_response`, `delay` (each way), `outage` of its site, and `crash` of its site's
            process, all until `until`. The other faults mean nothing here: HTTP delivers in order, once, and a store is durable.
        vanish: for each site in each attempt at a sum, probability that it disappears before one of its messages, until that
            attempt is over.
        slow: seconds that a site takes before each message.
        cuts: partitions.
        server_lives: least and most seconds after which a process of the server is killed; it comes back as a crashed site does.
    """

    faults: Faults = field(default_factory=Faults)
    vanish: float = 0.0
    slow: Mapping[int, float] = field(default_factory=dict)
    cuts: Sequence[Cut] = ()
    server_lives: tuple[float, float] | None = None


class _Process:
    """A process of the server; `transport` is None while it is down."""

    def __init__(self) -> None:
        self.transport: httpx.ASGITransport | None = None
        self.service: Service | None = None
        self.lives = 0
        self.requests: set[asyncio.Task[httpx.Response]] = set()


class _Site:
    """A site. Its folder outlives its processes."""

    def __init__(self, index: int, identity: Identity, folder: Path, rng: np.random.Generator) -> None:
        self.index, self.identity, self.folder, self.rng = index, identity, folder, rng
        self.troupe: Troupe | None = None
        self.state: SiteState | None = None
        self.lives = self.sources = 0
        self.unreachable_until = 0.0
        self.plans: dict[tuple[str, int], int] = {}  # by attempt at a sum: how many messages it still sends

    def happens(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return probability > 0 and self.rng.random() < probability

    def between(self, span: tuple[float, float]) -> float:
        """A random number in a range."""
        return span[0] + (span[1] - span[0]) * float(self.rng.random())


class _Wire(httpx.BaseTransport):
    """A site's way to the server, as its HTTP client sees it."""

    def __init__(self, federation: Federation, site: _Site) -> None:
        self._federation, self._site = federation, site

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request over the simulated network."""
        request.read()
        found = self._federation.stage.wait(self._federation.exchange(self._site, request))
        return httpx.Response(found.status_code, headers=found.headers.raw, stream=httpx.ByteStream(found.content))


class Federation:
    """A server and its sites. Use it in a `with`.

    Args:
        folder: an empty one; each site gets its own in it.
        sites: how many.
        weather: what goes wrong.
        seed: of everything random.
        servers: processes of the server, all on one store.
        settings: of the server.
        store: the server's; in memory by default.

    Attributes:
        watch: what was found; see `Watch`.
        requests: how many the server was sent.
        killed: how many processes of sites and of the server were killed.
    """

    def __init__(
        self,
        folder: Path,
        sites: int,
        weather: Weather | None = None,
        seed: int = 0,
        servers: int = 1,
        settings: Settings | None = None,
        store: Store | None = None,
    ) -> None:
        self.folder, self.seed, self.weather = folder, seed, weather or Weather()
        self.settings = settings or Settings(work=120.0, phase=120.0, deciding=600.0, retry=5.0, grace=30.0)
        self.store = store or MemoryStore()
        self.stage = Stage()
        self.requests = self.killed = 0
        self.rng = repeatable(seed, "storm: federation")
        self._steps: dict[str, int] = {}
        self.identity = Identity.create(folder / "server.key", "server", self._random("identity"))
        self.processes = [_Process() for _ in range(servers)]
        self.sites = [self._site(index) for index in range(sites)]
        places = {site.identity.public_hex: site.index for site in self.sites}
        self.watch = Watch(self.store, Blobs(folder / "server" / "blobs"), places)

    def _random(self, *purpose: int | str) -> InsecureTestRNG:
        return InsecureTestRNG(repeatable_seed(self.seed, "storm: private", *purpose))

    def _site(self, index: int) -> _Site:
        folder = self.folder / f"site{index}"
        identity = Identity.create(folder / IDENTITY, f"site{index}", self._random("site", index))
        state = SiteState(folder)
        state.put_server(Server(URL, None, self.identity.public_hex, self.identity.public_hex, quick_start=True))
        quick_policy(state, "data", plain=True)
        state.store.close()
        return _Site(index, identity, folder, repeatable(self.seed, "storm: site", index))

    def __enter__(self) -> Federation:
        self.stage.__enter__()
        for number in range(len(self.processes)):
            self._start_server(number)
        service, token = self.service, JoinToken.create(URL)
        service.rosters.invite(token, len(self.sites))
        for site in self.sites:
            service.rosters.join(token.secret, site.identity.name, site.identity.public_hex, self.clock())
            self.start(site.index)
        return self

    def __exit__(self, *error: object) -> None:
        for site in self.sites:
            site.troupe = None
        self.stage.__exit__(*error)

    def clock(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + self.stage.now

    @property
    def service(self) -> Service:
        """A living process of the server."""
        return next(process.service for process in self.processes if process.service is not None)

    # What a test asks for.

    def submit(self, summation: Summation, rounds: int, cohort: Cohort | None = None, name: str = "count", seed: int = 0) -> str:
        """Queue a study that counts sites, round by round. Returns its hash."""
        study = Study(Histogram(COLUMN), rounds, cohort or Cohort(), summation=summation, name=name)
        bundle = Bundle.of(study, schema_of(len(self.sites)), "data").sign(self.identity.signing_key)
        network = traits(summation, SummationTraits).network
        self._steps[study.hash] = 1 if network is None else network.messages
        return submit(self.service.rounds, bundle, "somebody", seed, len(self.sites))

    def at(self, seconds: float, what: Callable[..., object], *arguments: object) -> None:
        """Have something done at a moment, in seconds since the beginning."""
        self.stage.loop.call_at(seconds, what, *arguments)

    def run(self, seconds: float, settle: float = 600.0) -> None:
        """Run until every study is over and every site knows it, or so many seconds have passed."""
        self.stage.loop.run_until_complete(self._run(seconds, settle))
        for site in self.sites:
            self.watch.finish(site.index, SiteState(site.folder))

    async def _run(self, seconds: float, settle: float) -> None:
        while not self.watch.over and self.stage.now < seconds:
            await asyncio.sleep(TICK)
        self.weather = replace(self.weather, vanish=0.0, faults=self.weather.faults.calm(), server_lives=None)
        end = self.stage.now + settle
        while self.stage.now < end and not self.at_rest:
            await asyncio.sleep(5.0)

    @property
    def at_rest(self) -> bool:
        """Whether no site waits for the end of a sum."""
        return all(site.state is None or not site.state.tasks() for site in self.sites)

    def remove(self, index: int) -> None:
        """Sign a roster without a site."""
        rosters = self.service.rosters
        with self.store.snapshot() as view:
            number = rosters.newest(view)
            gone = self.sites[index].identity.public_hex
            entries = tuple(entry for entry in rosters.signed(view, number).entries if entry.public != gone)
        now = int(self.clock())
        rosters.publish(SignedRoster.sign(self.identity.signing_key, number + 1, now, now + YEAR, entries), now)

    # Processes.

    def start(self, index: int) -> None:
        """Start a site's process, or start it again."""
        site = self.sites[index]
        if site.troupe is not None:
            return
        site.lives += 1
        troupe, state = Troupe(), SiteState(site.folder)
        machine = Machine(
            clock=self.clock,
            pause=self._pause,
            start=lambda work, name: self.stage.start(troupe, work, name),
            random=partial(self._source, site),
            transport=_Wire(self, site),
        )
        agent = Agent(state, quick_policy(state, "data", plain=True), lambda data: client(site.index), machine)
        site.troupe, site.state = troupe, state
        self.stage.start(troupe, agent.run, site.identity.name)

    def _source(self, site: _Site) -> InsecureTestRNG:
        site.sources += 1
        return self._random("site", site.index, site.lives, site.sources)

    def _pause(self, event: threading.Event, seconds: float) -> None:
        self.stage.wait(asyncio.sleep(seconds))

    def kill(self, index: int) -> None:
        """Kill a site's process (as kill -9 does) at what it waits for."""
        site = self.sites[index]
        if site.troupe is not None and site.state is not None:
            self.killed += 1
            self.stage.kill(site.troupe)
            site.troupe = site.state = None

    def _start_server(self, number: int) -> None:
        process = self.processes[number]
        process.lives += 1
        random = self._random("server", number, process.lives)
        of = (self.store, self.folder / "server", self.identity, (URL,))
        process.service = Service(*of, settings=self.settings, clock=self.clock, random=random)
        process.transport = httpx.ASGITransport(application(process.service))
        self.stage.loop.create_task(self._serve(number, process.service))

    async def _serve(self, number: int, service: Service) -> None:
        lives, process = self.weather.server_lives, self.processes[number]
        end = np.inf if lives is None else self.stage.now + lives[0] + (lives[1] - lives[0]) * self.rng.random()
        while self.stage.now < end or self.weather.server_lives is None:
            service.step()
            self.watch.look()
            await asyncio.sleep(TICK * (0.9 + 0.2 * self.rng.random()))
        self.killed += 1
        process.service = process.transport = None
        for request in process.requests:
            request.cancel()
        minimum, most = self.weather.faults.restart_after
        self.stage.loop.call_later(minimum + (most - minimum) * self.rng.random(), self._start_server, number)

    # The network.

    async def exchange(self, site: _Site, request: httpx.Request) -> httpx.Response:
        """A request and its answer, with errors as httpx raises them."""
        if request.method in ("POST", "PUT") and "/sums/" in request.url.path and site.index in self.weather.slow:
            await asyncio.sleep(self.weather.slow[site.index])
        self._vanishes(site, request)
        try:
            async with asyncio.timeout(request.extensions["timeout"]["read"]):
                return await self._carried(site, request)
        except TimeoutError:
            raise httpx.ReadTimeout("The server has not answered in time.") from None

    async def _carried(self, site: _Site, request: httpx.Request) -> httpx.Response:
        faults = self.weather.faults if self.stage.now < self.weather.faults.until else self.weather.faults.calm()
        if site.happens(faults.outage):
            site.unreachable_until = self.stage.now + site.between(faults.outage_for)
        crash = int(site.rng.integers(1, 3)) if site.happens(faults.crash) else 0
        await self._underway(site, faults)
        if not self._reachable(site):
            await asyncio.sleep(request.extensions["timeout"]["connect"])
            raise httpx.ConnectTimeout("There is no way to the server.")
        if crash == 1 or site.happens(faults.drop):
            self._crashes(site, crash)
            raise httpx.ReadError("The connection broke.")
        response = await self._answered(request)
        self.watch.answered(site.index, request, response)
        await self._underway(site, faults)
        if crash == 2 or site.happens(faults.lost_response):
            self._crashes(site, crash)
            raise httpx.ReadError("The connection broke.")
        if not self._reachable(site):
            await asyncio.Event().wait()
        return response

    async def _underway(self, site: _Site, faults: Faults) -> None:
        await asyncio.sleep(site.between(faults.delay))

    def _reachable(self, site: _Site) -> bool:
        now = self.stage.now
        if now < site.unreachable_until or any(cut.holds(now, site.index) for cut in self.weather.cuts):
            return False
        return not any(left < 0 and self.watch.under_way(*attempt) for attempt, left in site.plans.items())

    def _vanishes(self, site: _Site, request: httpx.Request) -> None:
        """Note that a site sends a message to a sum, and decide whether it is one that the site does not get to send."""
        if not self.weather.vanish or "/sums/" not in request.url.path:
            return
        attempt = self.watch.attempt(request.url.path.split("/")[3])
        if attempt not in site.plans:
            steps = self._steps[attempt[0].split("-")[0]]
            site.plans[attempt] = int(site.rng.integers(0, steps)) if site.happens(self.weather.vanish) else 1 << 30
        if request.method == "POST":
            site.plans[attempt] -= 1

    def _crashes(self, site: _Site, crash: int) -> None:
        if crash:
            self.kill(site.index)
            self.stage.loop.call_later(site.between(self.weather.faults.restart_after), self.start, site.index)

    async def _answered(self, request: httpx.Request) -> httpx.Response:
        """The answer of one of the server's processes."""
        self.requests += 1
        process = self.processes[int(self.rng.integers(len(self.processes)))]
        if process.transport is None:
            raise httpx.ConnectError("Nobody listens.")
        sent = httpx.Request(request.method, request.url, headers=request.headers.raw, content=request.content)
        task = self.stage.loop.create_task(_asked(process.transport, sent))
        process.requests.add(task)
        task.add_done_callback(process.requests.discard)
        await asyncio.wait([task])
        if task.cancelled():
            raise httpx.ReadError("The server closed the connection.")
        return task.result()


async def _asked(transport: httpx.ASGITransport, request: httpx.Request) -> httpx.Response:
    found = await transport.handle_async_request(request)
    return httpx.Response(found.status_code, headers=found.headers.raw, content=await found.aread())


def schema_of(sites: int) -> Schema:
    """The schema of data in which each row has the number of its site."""
    codes = {number: f"site {number}" for number in range(sites)}
    return Schema(features=(Column("x"),), shape=(1,), columns=(Column(COLUMN, codes=codes),))


def client(index: int) -> Client:
    """A site's one row."""
    zero = np.zeros((1, 1), np.float32)
    return Client(f"site {index}", Examples(zero, zero[:, 0], {COLUMN: np.array([index], np.float64)}))
