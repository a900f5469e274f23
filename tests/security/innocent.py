"""Two innocent clients, measured in messages and seconds: one publishes at a steady pace, one receives.

`python -m tests.security.innocent PORT [--ack]` prints a line of JSON once both are connected. Each line on its
standard input names a count: the program prints a report once so many more messages were sent and all of them came, or
their deadline passed. It ends when its input ends. It runs apart from the attackers, so that these do not slow down
the measuring.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from tests.security.wire import RawSocket, text

INTERVAL = 0.05
"""Seconds between two messages: 20 a second."""
LATE = 5.0
"""Seconds after which a message counts as missing."""
DOOR_INTERVAL = 0.5
"""Seconds between two new sockets, which measure how long a newcomer waits for its welcome."""
CHANNEL = "innocent"


@dataclass
class Report:
    """Waits in seconds, of all messages that were sent since the last report: to their receiver, and to their `ack`."""

    sent: int
    received: int
    missing: int
    out_of_order: int
    """Messages that came again, or behind a later one."""
    errors: list[str]
    """Codes of the errors that the publisher was answered."""
    worst: float
    p99: float
    worst_door: float
    """The longest wait of a newcomer from its connecting to its welcome."""
    closes: list[int]
    """Close codes of the two clients' sockets."""

    @property
    def whole(self) -> bool:
        """Tell whether every message came once and in order, and no socket was closed."""
        return not (self.missing or self.out_of_order or self.closes or self.errors)


@dataclass
class Sample:
    """A message: when it was sent, and how long its receiver and its `ack` took."""

    sent: float
    delivered: float | None = None
    acknowledged: float | None = None

    @property
    def is_done(self) -> bool:
        """Tell whether the message and its `ack` came."""
        return self.delivered is not None and self.acknowledged is not None

    def waits(self, now: float) -> tuple[float, float]:
        """Both waits; one that goes on counts as it stands."""
        so_far = now - self.sent
        return (
            so_far if self.delivered is None else self.delivered,
            so_far if self.acknowledged is None else self.acknowledged,
        )


class Pair:
    """The publisher, the receiver, and what both saw since the last report."""

    def __init__(self, port: int, *, acknowledges: bool) -> None:
        self._port = port
        self._acknowledges = acknowledges
        self._samples: dict[int, Sample] = {}
        """By number, those that were not yet reported."""
        self._doors: list[float] = []
        self._knocked: float | None = None
        """When the newcomer connected that waits for its welcome."""
        self._number = 0
        self._latest = -1
        self._out_of_order = 0
        self._errors: list[str] = []
        self._closes: list[int] = []
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Connect both."""
        self._receiver = await RawSocket.open(self._port)
        await self._receiver.ask({"type": "subscribe", "channel": CHANNEL, "subId": "1"})
        self._publisher = await RawSocket.open(self._port)
        self._tasks = [
            asyncio.create_task(each) for each in (self._receive(), self._hear(), self._publish(), self._knock())
        ]

    async def _publish(self) -> None:
        due = time.monotonic()
        with contextlib.suppress(OSError):
            while True:
                number, self._number = self._number, self._number + 1
                self._samples[number] = Sample(time.monotonic())
                message = {"type": "announce", "channel": CHANNEL, "payload": number, "ackId": number}
                await self._publisher.send(text(message))
                due += INTERVAL
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                message = await self._receiver.receive()
                now = time.monotonic()
                if message["type"] != "announce" or message.get("channel") != CHANNEL:
                    continue  # a broadcast of others, a ping
                if self._acknowledges:
                    await self._receiver.send(text({"type": "ack", "id": message["id"]}))
                if message.get("isRetry"):
                    continue  # it came before, and its acknowledgement crossed it
                number = message["payload"]
                self._out_of_order += number <= self._latest
                self._latest = max(self._latest, number)
                if sample := self._samples.get(number):
                    sample.delivered = now - sample.sent
                    self._news.set()
        self._closes.append(self._receiver.close_code or 1006)

    async def _hear(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                reply = await self._publisher.receive()
                now = time.monotonic()
                if reply["type"] == "error":
                    self._errors.append(reply["code"])
                if sample := self._samples.get(reply.get("ackId", -1)):
                    sample.acknowledged = now - sample.sent
                    self._news.set()
        self._closes.append(self._publisher.close_code or 1006)

    async def _knock(self) -> None:
        while True:
            self._knocked = time.monotonic()
            try:
                (await RawSocket.open(self._port)).close()
                self._doors.append(time.monotonic() - self._knocked)
            except OSError:  # which a TimeoutError is
                self._doors.append(max(LATE, time.monotonic() - self._knocked))
            self._knocked = None
            await asyncio.sleep(DOOR_INTERVAL)

    async def report(self, count: int) -> Report:
        """Wait for `count` more messages, and report all since the last report."""
        last = self._number + count
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL * count + LATE):
                while self._number < last or not self._all_came(last):
                    self._news.clear()
                    await self._news.wait()
        return self._reported(last)

    def _all_came(self, last: int) -> bool:
        return all(sample.is_done for number, sample in self._samples.items() if number < last)

    def _reported(self, last: int) -> Report:
        now = time.monotonic()
        doors = self._doors if self._knocked is None else [*self._doors, now - self._knocked]
        measured = sorted(wait for sample in self._samples.values() for wait in sample.waits(now)) or [0.0]
        samples = [sample for number, sample in self._samples.items() if number < last]
        report = Report(
            sent=len(samples),
            received=sum(sample.delivered is not None for sample in samples),
            missing=sum(not sample.is_done for sample in samples),
            out_of_order=self._out_of_order,
            errors=self._errors,
            worst=measured[-1],
            p99=measured[int(0.99 * (len(measured) - 1))],
            worst_door=max(doors, default=0.0),
            closes=[*self._closes],
        )
        self._samples = {number: sample for number, sample in self._samples.items() if number >= last}
        self._out_of_order, self._errors, self._doors = 0, [], []
        return report

    def close(self) -> None:
        """Leave."""
        for task in self._tasks:
            task.cancel()
        self._receiver.close()
        self._publisher.close()


def _say(value: Any) -> None:
    print(json.dumps(value), flush=True)


async def main(port: int, *, acknowledges: bool) -> None:
    """Measure until the input ends."""
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    pair = Pair(port, acknowledges=acknowledges)
    await pair.open()
    _say({"ready": True})
    while line := await commands.readline():
        _say(asdict(await pair.report(int(line))))
    pair.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--ack", action="store_true", help="acknowledge what the receiver gets")
    arguments = parser.parse_args()
    asyncio.run(main(arguments.port, acknowledges=arguments.ack))
