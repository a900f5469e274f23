"""The measurements with sockets: each server in turn, round after round."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench import tools
from bench.load import Load, LoadFailed, Run
from bench.peers import Peer, payloads
from bench.processes import Server, ServerFailed, free_port
from bench.results import Cell, Results

FAN_OUT, BURSTS, CHANNELS, STORM, MEMORY, SLOW = "fan-out", "bursts", "channels", "storm", "memory", "slow"

BURST = 64
SMALL, LARGE = 128, 4096
"""Payloads in bytes."""
SETTLE = 1.0
"""Seconds before memory is looked at."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    subscribers: tuple[int, ...]
    turns: int
    """Of each server in a round, with the same connections: for fan-out and bursts."""
    deliveries: int
    """Of each turn, at most."""
    seconds: float
    """For one turn, about: who takes longer for each delivery makes fewer."""
    burst_subscribers: int
    channels: tuple[int, int]
    """(connections, channels)"""
    storm: int
    """Clients that come at once."""
    idle: int
    """Connections whose memory is measured."""
    idle_seconds: float
    """After these their memory is measured again; 0: it is not."""
    slow_messages: int
    """Of 4 kB: enough to fill what the kernel holds for a client that does not read."""


FULL = Plan(
    rounds=5,
    subscribers=(1, 100, 500, 1000, 5000),
    turns=6,
    deliveries=40_000,
    seconds=0.2,
    burst_subscribers=500,
    channels=(5000, 1000),
    storm=1000,
    idle=2000,
    idle_seconds=600,
    slow_messages=1500,
)
SHORT = Plan(
    rounds=1,
    subscribers=(1, 100),
    turns=2,
    deliveries=1000,
    seconds=0.05,
    burst_subscribers=100,
    channels=(100, 20),
    storm=100,
    idle=100,
    idle_seconds=0,
    slow_messages=50,
)


class Bench:
    """Runs the scenarios of a plan for these peers; what comes of it is in `results`."""

    def __init__(self, plan: Plan, peers: Sequence[Peer], results: Results) -> None:
        self._plan = plan
        self._peers = list(peers)
        self._results = results

    @contextmanager
    def _servers(self, wanted: Sequence[Peer]) -> Iterator[dict[Peer, Server]]:
        """A server of each peer, all at once: those that are not measured sleep."""
        with ExitStack() as stack:
            servers = {}
            for peer in wanted:
                port = free_port()
                try:
                    server = Server(peer.command(port), peer.environment(port), port, folder=peer.folder)
                    servers[peer] = stack.enter_context(server)
                except ServerFailed as failure:
                    self._fail(peer, "start", failure)
            yield servers

    def _fail(self, peer: Peer, scenario: str, failure: Exception) -> None:
        print(f"  {peer.name}: {scenario}: {failure}", file=sys.stderr)
        self._results.failures[f"{peer.name}: {scenario}"] = str(failure)

    @contextmanager
    def _attempt(self, peer: Peer, scenario: str, loads: dict[Peer, Load] | None = None) -> Iterator[None]:
        """A measurement that may fail: then it is noted, its load is none of these any more, and the others go on."""
        try:
            yield
        except LoadFailed as failure:
            self._fail(peer, scenario, failure)
            if loads is not None:
                loads.pop(peer, None)

    def _load(self, peer: Peer, server: Server, *, deflate: bool) -> Load:
        language = peer.language
        return Load(
            tools.load_generator(), server.port, peer.path, language.subscriber, language.publisher, deflate=deflate
        )

    def _rounds(self, title: str) -> Iterator[int]:
        for number in range(self._plan.rounds):
            began = time.monotonic()
            yield number
            print(f"{title}, round {number + 1} of {self._plan.rounds}: {time.monotonic() - began:.0f} s", flush=True)

    def _ways(self, peer: Peer) -> tuple[bool, ...]:
        return (False, True) if peer.deflates else (False,)

    def fan_out(self) -> None:
        """One message to many subscribers of one channel, alone and in bursts."""
        for _ in self._rounds("fan-out"):
            with self._servers(self._peers) as servers:
                for subscribers in self._plan.subscribers:
                    for deflate in (False, True):
                        with ExitStack() as stack:
                            loads: dict[Peer, Load] = {}
                            for peer, server in servers.items():
                                if deflate in self._ways(peer):
                                    with self._attempt(peer, FAN_OUT):
                                        load = stack.enter_context(self._load(peer, server, deflate=deflate))
                                        load.open(subscribers)
                                        loads[peer] = load
                            self._fan_out_of(servers, loads, subscribers, deflate=deflate)
                            for peer, load in loads.items():
                                with self._attempt(peer, FAN_OUT):
                                    load.drop()

    def _fan_out_of(
        self, servers: dict[Peer, Server], loads: dict[Peer, Load], subscribers: int, *, deflate: bool
    ) -> None:
        most = self._plan.deliveries // subscribers
        for payload in (SMALL, LARGE):
            for peer, count in self._turns(FAN_OUT, loads, payload, min(400, most)):
                load, cell = loads[peer], Cell(FAN_OUT, peer.name, subscribers, deflate, payload)
                with self._attempt(peer, FAN_OUT, loads):
                    cpu, alone = self._timed(servers[peer], load, count)
                    # With two under way the next is there when one is done: the server has no time to rest.
                    _, busy = self._timed(servers[peer], load, max(2, count), window=2)
                    self._results.add(
                        cell,
                        **_figures(cpu, alone, busy),
                        wire_bytes=alone.wire_bytes / alone.deliveries,
                        deflating=load.deflating / subscribers,
                    )
        if subscribers == self._plan.burst_subscribers:
            for peer, bursts in self._turns(BURSTS, loads, SMALL, max(1, 4 * most // BURST), burst=BURST):
                with self._attempt(peer, BURSTS, loads):
                    cpu, run = self._timed(servers[peer], loads[peer], bursts * BURST, burst=BURST)
                    cell = Cell(BURSTS, peer.name, subscribers, deflate, SMALL)
                    self._results.add(cell, **_figures(cpu, run, run))

    def _turns(
        self, scenario: str, loads: dict[Peer, Load], payload: int, most: int, *, burst: int = 1
    ) -> Iterator[tuple[Peer, int]]:
        """Who is measured next, and how many bursts fit into the time there is, when all have been warmed up.

        The turns are short, and every other goes backwards: what is slow for some seconds, such as a machine of which
        others have a part, is slow for all, and nobody comes behind the same one each time.
        """
        counts: dict[Peer, int] = {}
        for peer, load in tuple(loads.items()):
            with self._attempt(peer, scenario, loads):
                load.messages(map(peer.language.announce, payloads(payload)))
                some = max(1, most // 2)
                warm = _all_of(load.run(some * burst, burst=burst))
                counts[peer] = max(1, min(most, int(self._plan.seconds * 1e9 / warm.took * some)))
        for number in range(self._plan.turns):
            order = [peer for peer in counts if peer in loads]
            for peer in reversed(order) if number % 2 else order:
                yield peer, counts[peer]

    def _timed(
        self, server: Server, load: Load, messages: int, *, burst: int = 1, window: int = 1
    ) -> tuple[float, Run]:
        """The CPU time of the server for each delivery, in microseconds, and the run. Raises LoadFailed."""
        before = server.cpu_ns()
        run = load.run(messages, burst=burst, window=window)
        after = server.cpu_ns()
        return (after - before) / _all_of(run).deliveries / 1e3, run

    def channels(self) -> None:
        """Many connections in many small channels, a message to each in turn, 16 under way."""
        connections, channels = self._plan.channels
        for _ in self._rounds("many channels"):
            with self._servers([peer for peer in self._peers if peer.has_channels]) as servers:
                for deflate in (False, True):
                    for peer, server in servers.items():
                        with self._attempt(peer, CHANNELS), self._load(peer, server, deflate=deflate) as load:
                            load.open(connections, channels=channels)
                            load.messages(map(peer.language.announce, payloads(SMALL)))
                            load.run(channels, window=16)
                            count = max(1, self._plan.deliveries // connections) * channels  # each has as many
                            cpu, run = self._timed(server, load, count, window=16)
                            cell = Cell(CHANNELS, peer.name, connections, deflate, SMALL)
                            self._results.add(cell, **_figures(cpu, run, run))
                            load.drop()

    def storm(self) -> None:
        """Clients that connect and subscribe all at once."""
        count = self._plan.storm
        with self._servers(self._peers) as servers:
            for peer, server in servers.items():  # nobody is measured cold
                with self._attempt(peer, STORM), self._load(peer, server, deflate=False) as load:
                    load.open(count)
                    load.drop()
            for _ in self._rounds("connect storm"):
                for deflate in (False, True):
                    for peer, server in servers.items():
                        if deflate in self._ways(peer):
                            with self._attempt(peer, STORM), self._load(peer, server, deflate=deflate) as load:
                                before = server.cpu_ns()
                                took = load.open(count, at_once=count)
                                cpu = (server.cpu_ns() - before) / count / 1e3
                                self._results.add(Cell(STORM, peer.name, count, deflate), cpu_us=cpu, took_s=took / 1e9)
                                load.drop()

    def memory(self) -> None:
        """What an idle connection takes, at once and after a while; each in a new process."""
        for deflate in (False, True):
            with ExitStack() as stack:
                servers = stack.enter_context(
                    self._servers([peer for peer in self._peers if deflate in self._ways(peer)])
                )
                base: dict[Peer, float] = {}
                for peer, server in servers.items():
                    with self._attempt(peer, MEMORY):
                        load = stack.enter_context(self._load(peer, server, deflate=deflate))
                        load.open(10)  # what the first one needs is not a connection's
                        before = server.memory_bytes()
                        load.open(self._plan.idle)
                        time.sleep(SETTLE)
                        base[peer] = before
                        self._remember(peer, server, before, "kb", deflate=deflate)
                if self._plan.idle_seconds:
                    print(f"waiting {self._plan.idle_seconds:.0f} s", flush=True)
                    time.sleep(self._plan.idle_seconds)
                    for peer, without in base.items():
                        self._remember(peer, servers[peer], without, "later_kb", deflate=deflate)

    def _remember(self, peer: Peer, server: Server, base: float, name: str, *, deflate: bool) -> None:
        each = (server.memory_bytes() - base) / self._plan.idle / 1000
        self._results.add(Cell(MEMORY, peer.name, self._plan.idle, deflate), **{name: each})

    def slow(self) -> None:
        """The latency of all others while one client does not read."""
        subscribers = self._plan.burst_subscribers
        for _ in self._rounds("slow consumer"):
            with self._servers([peer for peer in self._peers if peer.has_channels]) as servers:
                for peer, server in servers.items():
                    cell = Cell(SLOW, peer.name, subscribers, payload=LARGE)
                    with self._attempt(peer, SLOW), self._load(peer, server, deflate=False) as load:
                        load.open(subscribers)
                        load.messages(map(peer.language.announce, payloads(LARGE)))
                        load.run(20)
                        _, alone = self._timed(server, load, max(10, self._plan.slow_messages // 5))
                        load.stall(1)
                        run = load.run(self._plan.slow_messages, seconds=60)
                        self._results.add(
                            cell,
                            without_p99_ms=alone.p99 / 1e6,
                            with_p99_ms=run.p99 / 1e6,
                            missing=run.missing / (run.missing + run.deliveries),
                        )
                        if not run.missing:
                            load.drop()

    def scenarios(self) -> dict[str, Callable[[], None]]:
        """All of them, by name."""
        return {
            FAN_OUT: self.fan_out,
            CHANNELS: self.channels,
            STORM: self.storm,
            MEMORY: self.memory,
            SLOW: self.slow,
        }


def _figures(cpu: float, run: Run, busy: Run) -> dict[str, float]:
    """What is noted of a run; how many deliveries a second there can be, of one in which the server has no rest."""
    return {
        "cpu_us": cpu,
        "p50_ms": run.p50 / 1e6,
        "p99_ms": run.p99 / 1e6,
        "per_second": busy.deliveries / busy.took * 1e9,
        "generator_us": run.generator_cpu / run.deliveries / 1e3,
    }


def _all_of(run: Run) -> Run:
    """The run, if all its deliveries came. Raises LoadFailed."""
    if run.missing:
        raise LoadFailed(f"{run.missing} of {run.missing + run.deliveries} deliveries did not come in time")
    return run
