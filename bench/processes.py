"""Processes of the bench: on a core of their own, and always ended."""

import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, STDOUT, Popen, TimeoutExpired
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Self

from bench.machine import SERVER_CORE, cpu_ns, memory_bytes
from bench.tools import ROOT

START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0


class ServerFailed(Exception):
    """A server did not start, or ended; the text has what it said."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def pinned(core: int, command: Sequence[str]) -> list[str]:
    """A command that runs on one core, with all its threads."""
    return ["taskset", "--cpu-list", str(core), *command]


def stop(process: "Popen[Any]") -> None:
    """End a process."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):  # it has ended, and something for it is left
                stream.close()
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except TimeoutExpired:
        process.kill()
        process.wait(STOP_TIMEOUT)


class Server:
    """A server on the servers' core. A context manager: it listens when the block begins and is gone when it ends."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], port: int, *, folder: Path = ROOT
    ) -> None:
        self.port = port
        self._log = TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        self._process = Popen(
            pinned(SERVER_CORE, command), env=environment, cwd=folder, stdin=DEVNULL, stdout=self._log, stderr=STDOUT
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise ServerFailed(self.log)
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stop(self._process)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    @property
    def log(self) -> str:
        """What it said."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def cpu_ns(self) -> int:
        """The CPU time that it has used."""
        return cpu_ns(self._process.pid)

    def memory_bytes(self) -> int:
        """The memory that it has."""
        return memory_bytes(self._process.pid)
