"""A client in a process of its own, and what it says."""

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from types import TracebackType
from typing import Any, Self

from tests.interop.clients import Run
from tests.support.deadline import DEADLINE, soon
from tests.support.process import ROOT

LONGEST = 2**21
"""Bytes of a line."""


class Adapter:
    """An adapter that speaks to an address; use it as an async context manager."""

    def __init__(self, run: Run, url: str, mode: str) -> None:
        self._run = run
        self._arguments = (url, mode)
        self.errors = ""
        self.said: list[str] = []
        """Lines of the adapter, cut short."""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *self._run.command, *self._arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=LONGEST, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **self._run.variables},
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read_errors())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await soon(self._process.wait())
        await soon(self._reading)
        if kind is not None:
            print(*self.said, self.errors, sep="\n")

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            self.errors += line.decode(errors="replace")

    async def _line(self) -> tuple[str, str]:
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        if not line:
            raise ConnectionError(f"the adapter ended: {self.errors[-2000:]}")
        self.said.append(line[:200].rstrip("\n"))
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "error":
            raise ConnectionError(rest)
        return word, rest

    async def next(self, wanted: str, seconds: float = DEADLINE) -> str:
        """Read to the next line that begins with this word, and return its rest. What went wrong is an error."""

        async def found() -> str:
            while True:
                word, rest = await self._line()
                if word == wanted:
                    return rest
                if word == "close":
                    raise ConnectionError(f"closed: {rest}")

        return await soon(found(), seconds)

    async def message(self, seconds: float = DEADLINE) -> dict[str, Any]:
        """Read to the next message, past those that only ask for a sign of life."""
        async with asyncio.timeout(seconds):  # in all: however often it is asked
            while True:
                message: dict[str, Any] = json.loads(await self.next("text", seconds))
                if message["type"] != "ping":
                    return message

    async def _order(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        await self._process.stdin.drain()

    async def send(self, message: dict[str, Any]) -> None:
        """Have it send a message."""
        await self._order(f"text {json.dumps(message, ensure_ascii=False)}")

    async def close(self) -> None:
        """Have it close with 1000."""
        await self._order("close")
