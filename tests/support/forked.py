"""A Python program in a process of its own that need not import everything anew.

Importing is most of what the service does when it starts, and the tests start it some hundreds of times. So one process
imports it once, and each start is a fork of that one; from there it goes as `python -m` does.
"""

import asyncio
import functools
import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

PRELOADED = ["tests.support.preloaded"]


@functools.cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(module: str, environment: dict[str, str], output: Connection) -> None:
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = []
    sys.path[:0] = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Forked:
    """A process that was begun so, with what `asyncio.subprocess.Process` has of it."""

    def __init__(self, process: BaseProcess, stdout: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self._process = process
        self._transport = transport
        self._over = asyncio.Event()
        self.stdout: asyncio.StreamReader | None = stdout
        assert process.pid is not None
        self.pid: int = process.pid
        asyncio.get_running_loop().add_reader(process.sentinel, self._ended)

    @classmethod
    async def begin(cls, module: str, environment: dict[str, str]) -> "Forked":
        """Run a module as `python -m` would, with exactly this environment."""
        reading, writing = _context().Pipe(duplex=False)
        process = _context().Process(target=_run, args=(module, environment, writing), daemon=True)
        await asyncio.to_thread(process.start)
        writing.close()
        stdout = asyncio.StreamReader()
        pipe = os.fdopen(os.dup(reading.fileno()), "rb", buffering=0)
        reading.close()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stdout), pipe
        )
        return cls(process, stdout, transport)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        self._process.join()
        self._over.set()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode if self._over.is_set() else None

    async def wait(self) -> int:
        """Return when it has ended, with its exit status or the negative signal."""
        await self._over.wait()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if not self._over.is_set():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)
