"""The load generator, told what to do. See load.c."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from types import TracebackType
from typing import Self

from bench.machine import LOAD_CORE, cpu_ns
from bench.processes import pinned, stop


class LoadFailed(Exception):
    """The generator could not do what it was told, mostly since the server did something else than expected."""


@dataclass(frozen=True)
class Script:
    """What a client says: (after so many messages, this), and after how many it is ready."""

    steps: tuple[tuple[int, str], ...]
    ready_after: int


@dataclass(frozen=True)
class Run:
    """What came of publishing. Times in nanoseconds."""

    took: int
    deliveries: int
    missing: int
    wire_bytes: int
    p50: int
    p90: int
    p99: int
    slowest: int
    generator_cpu: int


class Load:
    """A generator with its publisher connected to `port`. A context manager: it ends with the block."""

    def __init__(
        self, program: Path, port: int, path: str, subscriber: Script, publisher: Script, *, deflate: bool
    ) -> None:
        scripts: list[str] = []
        for script in (subscriber, publisher):
            scripts += [str(script.ready_after), str(len(script.steps))]
            for after, text in script.steps:
                scripts += [str(after), text]
        command = pinned(LOAD_CORE, [str(program), str(port), path, str(int(deflate)), *scripts])
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1)

    def __enter__(self) -> Self:
        self._answer("ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop(self._process)

    def _answer(self, wanted: str) -> list[int]:
        assert self._process.stdout is not None
        word, _, rest = self._process.stdout.readline().strip().partition(" ")
        if word != wanted:
            raise LoadFailed(rest or "the load generator ended")
        return [int(number) for number in rest.split()]

    def _tell(self, command: str, answer: str) -> list[int]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
        except BrokenPipeError:
            raise LoadFailed("the load generator has ended") from None
        return self._answer(answer)

    def messages(self, texts: Iterable[str]) -> None:
        """What is published from now on, in turn."""
        self._tell("forget", "forgotten")
        for text in texts:
            self._tell(f"message {text}", "message")

    def open(self, count: int, *, channels: int = 1, at_once: int = 64) -> int:
        """Connect and subscribe; answers how long it took until all were subscribed, in nanoseconds."""
        took, self.deflating = self._tell(f"open {count} {channels} {at_once}", "opened")
        return took

    def stall(self, count: int) -> None:
        """So many of the subscribers read no more."""
        self._tell(f"stall {count}", "stalled")

    def run(self, messages: int, *, burst: int = 1, window: int = 1, seconds: float = 30) -> Run:
        """Publish, and wait until all subscribers have all, or the time is over."""
        before = cpu_ns(self._process.pid)
        took, deliveries, missing, wire_bytes, p50, p90, p99, slowest = self._tell(
            f"run {messages} {burst} {window} {int(seconds * 1000)}", "ran"
        )
        cpu = cpu_ns(self._process.pid) - before
        return Run(took, deliveries, missing, wire_bytes, p50, p90, p99, slowest, cpu)

    def drop(self) -> None:
        """Close all subscribers."""
        self._tell("drop", "dropped")
