"""The real service in a process of its own."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.deadline import DEADLINE, soon, until
from tests.support.forked import Forked

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Answer(NamedTuple):
    """What an HTTP request was answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """`python -m app`, with exactly these variables. Use it as an async context manager: it ends with the block.

    It is forked from a process that has imported all of it (tests.support.forked), unless `forked` is False.
    """

    start_deadline = DEADLINE
    module = "app"
    """What is run; tests of both ways to send run `tests.support.by_message` too."""

    forked = True

    def __init__(self, *, wait_for: str = "/health/ready", **variables: str) -> None:
        self.port = free_port()
        self._wait_for = wait_for
        self.variables = variables
        self._process: Process | Forked | None = None
        self._reading: asyncio.Task[None] | None = None
        self.log = ""

    async def __aenter__(self) -> Self:
        await self.start()

        async def up() -> bool:
            if self.process.returncode is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log}")
            try:
                return (await self.get(self._wait_for)).status == 200
            except OSError:
                return False

        try:
            await until(up, self.start_deadline, f"{self._wait_for} was never 200")
        except BaseException:
            print(self.log)
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.returncode is None:
            self.kill()
        await soon(self.process.wait())
        if self._reading is not None:
            await soon(self._reading)
        if kind is not None:
            print(self.log)

    async def start(self) -> None:
        """Start the process, and wait for nothing."""
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PORT": str(self.port),
            **self.variables,
        }
        if self.forked:
            self._process = await Forked.begin(self.module, environment)
        else:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self.module, cwd=ROOT, env=environment,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
        self._reading = asyncio.create_task(self._read_log())

    async def _read_log(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.log += line.decode(errors="replace")

    @property
    def process(self) -> Process | Forked:
        assert self._process is not None
        return self._process

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()

    def pause(self) -> None:
        """Take its CPU away, as Cloud Run does with an idle instance."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Give it CPU again."""
        self.process.send_signal(signal.SIGCONT)

    async def wait(self, seconds: float = DEADLINE) -> int:
        """Its exit status."""
        status = await soon(self.process.wait(), seconds)
        if self._reading is not None:
            await soon(self._reading)
        return status

    async def logged(self, text: str, seconds: float = DEADLINE) -> None:
        """Wait until this stands in its log."""
        await until(lambda: text in self.log, seconds, f"{text!r} never stood in the log")

    async def get(self, path: str, **headers: str) -> Answer:
        """GET a path."""
        return await self.request("GET", path, None, headers)

    async def post(self, path: str, body: object, **headers: str) -> Answer:
        """POST a body: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.request("POST", path, data, {"content-type": "application/json", **headers})

    async def request(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """Any HTTP request; `_` in a header's name stands for `-`."""

        def send() -> Answer:
            connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                connection.request(method, path, body, {key.replace("_", "-"): text for key, text in headers.items()})
                answer = connection.getresponse()
                return Answer(answer.status, {key.lower(): text for key, text in answer.getheaders()}, answer.read())
            finally:
                connection.close()

        return await asyncio.to_thread(send)

    async def metric(self, name: str) -> float:
        """The value of a metric, as Prometheus writes it: `name` or `name{label="value"}`; 0 where there is none."""
        lines = (await self.get("/metrics")).body.decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"cloud_sockets_{name} ")), 0.0)
