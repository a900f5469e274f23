"""Innocents and attackers in processes of their own, and what is measured of the service between them."""

import asyncio
import contextlib
import json
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from app.settings import Settings
from docs.memory import needed
from tests.security.innocent import Report
from tests.support.deadline import soon
from tests.support.process import ROOT, Server

SMALL = {
    "CLOUD_SOCKETS_MAX_CONNECTIONS": "300",
    "CLOUD_SOCKETS_MAX_BUFFERED_TOTAL": str(16 * 2**20),
    "CLOUD_SOCKETS_HISTORY_BYTES": str(8 * 2**20),
    "CLOUD_SOCKETS_MAX_AWAITING_BYTES": str(4 * 2**20),
    "CLOUD_SOCKETS_MAX_SUBSCRIPTION_BYTES": str(4 * 2**20),
    "CLOUD_SOCKETS_MAX_UNFINISHED_BYTES": str(8 * 2**20),
    "CLOUD_SOCKETS_PUBLISH_BACKLOG": str(4 * 2**20),
}
"""Bounds of a small instance, so that what docs/memory.md says it needs is little more than what it takes."""
KEPT = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": "announce,broadcast,notification"}
"""With these types listed, history is on where there is no topic, too."""
QUIET = 20
"""Messages of the innocents that tell how long they wait without an attack."""
AFTER = 20
"""Messages that must come once the attack is over."""
WORST = 1.0
"""Seconds that an innocent message, or its `ack`, may take at the most: what a user notices."""
DOOR = 2.0
"""Seconds that a newcomer may wait for its welcome."""
SECONDS = 3.0
"""For how long an attack lasts where nothing else is said."""
MEGABYTE = 2**20
_ENTRY = re.compile(r"^\d{4}-\d\d-\d\dT", re.MULTILINE)


class _Program:
    """A module of this package that runs as a process of its own; it ends with the block."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: Process | None = None

    async def __aenter__(self) -> Self:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *self._arguments, cwd=ROOT, env=environment, stdin=PIPE, stdout=PIPE, limit=MEGABYTE
        )
        try:
            await self.line()  # it is ready
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await soon(self.process.wait())

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    async def line(self, seconds: float = 30.0) -> str:
        """The next line that the program prints."""
        assert self.process.stdout is not None
        line = (await soon(self.process.stdout.readline(), seconds)).decode()
        assert line, f"{self._arguments} ended with {await soon(self.process.wait())}"
        return line


class Innocent(_Program):
    """The two innocent clients of `tests.security.innocent`."""

    def __init__(self, port: int, *, acknowledges: bool = False) -> None:
        super().__init__("tests.security.innocent", str(port), *(["--ack"] if acknowledges else []))

    async def report(self, count: int) -> Report:
        """Wait for `count` more messages, and report all since the last report."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n".encode())
        return Report(**json.loads(await self.line()))


class Attacker(_Program):
    """One attack of `tests.security.attackers`."""

    def __init__(self, name: str, port: int, seconds: float = SECONDS, connections: int = 20, rest: float = 0) -> None:
        self._seconds = seconds
        more = ("--connections", str(connections), "--rest", str(rest))
        super().__init__("tests.security.attackers", name, str(port), str(seconds), *more)

    async def over(self) -> Counter[str]:
        """Wait until the attack is over; returns how often what happened."""
        return Counter(json.loads(await self.line(self._seconds + 30)))


class Outcome(NamedTuple):
    """Reports of the innocents before an attack, and during it and after; what the attacker counted; and memory."""

    quiet: Report
    attacked: Report
    counts: Counter[str]
    peak: float
    """The most resident memory in MiB."""
    needed: float
    """The MiB that docs/memory.md says an instance with these settings needs."""

    def __str__(self) -> str:
        memory = f"{self.peak:.0f} MiB, {self.needed:.0f} allowed"
        return f"quiet: {self.quiet}\nattacked: {self.attacked}\nattacker: {dict(self.counts)}\nmemory: {memory}"

    def is_harmless(self) -> None:
        """Assert that the innocents lost nothing and waited no longer than a user would bear."""
        print(self)
        assert self.attacked.whole, self
        assert self.attacked.worst < WORST, self
        assert self.attacked.worst_door < DOOR, self
        assert self.peak < self.needed, self


@asynccontextmanager
async def innocents(server: Server, quiet: int = QUIET) -> AsyncIterator[tuple[Innocent, Report]]:
    """Two innocents at a server, and what they measured in `quiet` messages before anything happened."""
    async with Innocent(server.port) as innocent:
        yield innocent, await innocent.report(quiet)


async def attack_beside(innocent: Innocent, quiet: Report, name: str, server: Server, **options: Any) -> Outcome:
    """Let one attack run to its end beside the innocents."""
    memory = PeakMemory(server)
    async with Attacker(name, server.port, **options) as attacker:
        counts = await attacker.over()
    return Outcome(quiet, await innocent.report(AFTER), counts, memory.peak, memory_of(server))


def log_entries(log: str) -> list[str]:
    """The entries of a log, each with the lines of its traceback."""
    starts = [found.start() for found in _ENTRY.finditer(log)]
    ends = [*starts[1:], len(log)] if starts else []
    return [log[start:end] for start, end in zip(starts, ends, strict=True)]


class PeakMemory:
    """The most resident memory that a process had since this was made, beyond what it had then."""

    def __init__(self, server: Server) -> None:
        self._folder = Path(f"/proc/{server.process.pid}")
        (self._folder / "clear_refs").write_text("5")  # resets VmHWM
        self._before = self._read("VmRSS")

    @property
    def peak(self) -> float:
        """The peak in MiB, with what the process had before."""
        return self._read("VmHWM")

    @property
    def growth(self) -> float:
        """The growth in MiB."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> float:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def memory_of(server: Server) -> float:
    """The MiB that docs/memory.md says a server with these variables needs."""
    return needed(Settings.from_environment(server.variables)) / 2**20


async def answered(coroutine: Any, seconds: float) -> bool:
    """Tell whether something is done in time."""
    with contextlib.suppress(TimeoutError, OSError):
        await asyncio.wait_for(coroutine, seconds)
        return True
    return False
