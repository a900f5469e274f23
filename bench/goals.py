"""What the service is meant to reach, as ratios in one run (500 subscribers, 330-byte frames)."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.growth import CHANNEL_COUNTS, GROWTH, OPERATIONS
from bench.peers import OURS, QUART, SOCKET_IO, WS, C
from bench.results import Cell, Results
from bench.scenarios import BURSTS, FAN_OUT, FULL, MEMORY, SLOW, SMALL, STORM

NOISE = 1.5
"""What is the same within noise differs by less than this factor."""


@dataclass(frozen=True)
class Goal:
    """What is to be at most (`at_least`: at least) `limit`, and what it is; None: it was not measured."""

    name: str
    limit: float
    value: float | None
    unit: str = "x"
    at_least: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether it is; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def goals(results: Results) -> Iterator[Goal]:
    """All of them."""

    def at(scenario: str, peer: str, *, deflate: bool = False) -> Cell:
        return Cell(scenario, peer, FULL.burst_subscribers, deflate, SMALL)

    def ratio(cell: Cell, other: Cell) -> float | None:
        return results.ratio(cell, other, "cpu_us")

    plain, deflated, burst = at(FAN_OUT, OURS.name), at(FAN_OUT, OURS.name, deflate=True), at(BURSTS, OURS.name)
    yield Goal("CPU per delivery, against ws", 0.75, ratio(plain, at(FAN_OUT, WS.name)))
    yield Goal("CPU per delivery, against the C program", 1.3, ratio(plain, at(FAN_OUT, C.name)))
    yield Goal("CPU per delivery with deflate offered, against ours without", 1.1, ratio(deflated, plain))
    quart = ratio(at(FAN_OUT, QUART.name, deflate=True), deflated)
    yield Goal("the same: how much less than plain Quart on Hypercorn", 15, quart, at_least=True)
    yield Goal("bursts of 64, against ws", 0.2, ratio(burst, at(BURSTS, WS.name)))
    yield Goal("bursts of 64, against the C program's one send() per delivery", 0.35, ratio(burst, at(FAN_OUT, C.name)))
    idle = Cell(MEMORY, OURS.name, FULL.idle, deflate=True)
    yield Goal("memory of an idle connection, deflate offered", 40, results.median(idle, "kb"), unit="kB")
    for deflate, words in ((False, ""), (True, ", deflate offered")):
        storm = [Cell(STORM, peer.name, FULL.storm, deflate) for peer in (OURS, SOCKET_IO)]
        yield Goal(f"CPU of connect and subscribe{words}, against Socket.IO", 1, ratio(storm[0], storm[1]))
    for operation in OPERATIONS:
        grown = ratio(*(Cell(GROWTH, operation, count) for count in CHANNEL_COUNTS[::-2]))
        yield Goal(f"{operation} among 100,000 channels, against among 10", NOISE, grown)
    slow = Cell(SLOW, OURS.name, FULL.burst_subscribers, payload=4096)
    with_one, without = results.median(slow, "with_p99_ms"), results.median(slow, "without_p99_ms")
    beside = with_one / without if with_one and without else None
    yield Goal("p99 of the others beside a slow consumer, against without one", NOISE, beside)
