"""Who is asked, who is given up."""

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from app.connection import CLOSE_TIMEOUT
from app.server.pings import GRANULARITY, PING_INTERVAL, PONG_TIMEOUT, Pings
from tests.support.deadline import until


class Socket:
    """A socket whose client answers or not."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.closed = False
        self.pings = 0
        self.given_up = 0
        self.insisted = 0
        self.answers_a_message = False

    def ping(self) -> None:
        self.pings += 1

    def silent(self) -> bool:
        return not self.answers

    def insist(self) -> None:
        self.insisted += 1
        self.answers = self.answers_a_message

    def give_up(self) -> None:
        self.given_up += 1
        self.closed = True


@pytest.fixture
async def pings() -> AsyncIterator[Pings]:
    made = Pings(interval=0.05, timeout=0.02)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()


async def test_who_answers_is_asked_again_and_again(pings: Pings) -> None:
    socket = Socket(answers=True)
    pings.watch(socket)
    await until(lambda: socket.pings == 4)
    assert socket.given_up == 0


async def test_who_does_not_answer_is_given_up_once(pings: Pings) -> None:
    silent, other = Socket(answers=False), Socket(answers=True)
    pings.watch(silent)
    pings.watch(other)
    await until(lambda: silent.given_up == 1)
    asked = other.pings
    await until(lambda: other.pings == asked + 2)
    assert (silent.pings, silent.insisted, silent.given_up) == (1, 1, 1)
    assert other.insisted == 0


async def test_who_answers_only_a_message_stays(pings: Pings) -> None:
    socket = Socket(answers=False)
    socket.answers_a_message = True
    pings.watch(socket)
    for _ in range(3):
        pings_before = socket.pings
        await until(lambda before=pings_before: socket.pings > before)  # type: ignore[misc]
        socket.answers = False
    await until(lambda: socket.insisted >= 3)
    assert socket.given_up == 0


async def test_who_falls_silent_later_is_found_out(pings: Pings) -> None:
    socket = Socket(answers=True)
    pings.watch(socket)
    await until(lambda: socket.pings == 2)
    socket.answers = False
    await until(lambda: socket.given_up == 1)


async def test_who_has_gone_is_not_asked(pings: Pings) -> None:
    gone, other = Socket(answers=True), Socket(answers=True)
    gone.closed = True
    pings.watch(gone)
    pings.watch(other)
    await until(lambda: other.pings == 2)
    assert gone.pings == 0


def test_a_client_that_vanished_is_gone_in_less_than_45_seconds() -> None:
    assert PING_INTERVAL + PONG_TIMEOUT + PONG_TIMEOUT + 3 * GRANULARITY + CLOSE_TIMEOUT < 45


async def test_who_is_no_longer_watched_is_not_asked_nor_kept(pings: Pings) -> None:
    gone, other = Socket(answers=False), Socket(answers=True)
    pings.watch(gone)
    pings.watch(other)
    pings.unwatch(gone)
    await until(lambda: other.pings == 2)
    assert (gone.pings, gone.given_up) == (0, 0)


async def test_answers_that_came_while_the_process_stood_still_are_waited_for() -> None:
    pings = Pings(interval=0.6, timeout=0.5)
    running = asyncio.create_task(pings.run())
    socket = Socket(answers=True)
    pings.watch(socket)
    await until(lambda: socket.pings == 1)
    socket.answers = False
    time.sleep(1)  # noqa: ASYNC251  # longer than an answer may take: it is there, and not read yet
    asyncio.get_running_loop().call_later(0.002, setattr, socket, "answers", True)
    await until(lambda: socket.pings == 2)
    assert socket.given_up == 0
    running.cancel()


async def test_who_comes_later_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is the test's: with the service's own times a client that joins each second, and one that answers."""
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 0.0)
    pings = Pings()
    old, asked = Socket(answers=True), []
    pings.watch(old)
    for second in range(1, 200):
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda now=second: float(now))
        pings.watch(Socket(answers=True))
        before = old.pings
        pings._ask(float(second))
        if old.pings > before:
            asked.append(second)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert asked[0] == PING_INTERVAL
    assert set(gaps) == {PING_INTERVAL}
