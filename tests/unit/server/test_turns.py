"""Fair shares of the event loop."""

import asyncio
from itertools import pairwise

from app.server.turns import GRANTS, HEAVY, LONG, SHORT, WINDOW, Turns
from tests.support.deadline import soon


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_turns_come_in_the_order_in_which_they_are_asked_for_and_few_at_once() -> None:
    turns = Turns(Hand())
    went: list[int] = []

    async def take(number: int) -> None:
        await turns.next()
        went.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(7)]
    await asyncio.sleep(0)  # all ask
    assert [turns.is_busy] == [True]
    seen = []
    while len(went) < len(tasks):
        seen.append(len(went))
        await asyncio.sleep(0)
    assert went == list(range(7))
    assert all(later - earlier <= GRANTS for earlier, later in pairwise(seen))
    assert not turns.is_busy
    await asyncio.gather(*tasks)


async def test_who_was_cancelled_takes_nobodys_turn() -> None:
    turns = Turns(Hand())
    tasks = [asyncio.create_task(turns.next()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[:4]:
        task.cancel()
    await soon(asyncio.gather(*tasks, return_exceptions=True))
    assert not tasks[4].cancelled()
    assert not turns.is_busy
    await soon(turns.next())


async def test_turns_are_short_while_many_wait() -> None:
    time = Hand()
    turns = Turns(time)
    alone = await turns.next()
    assert alone == time.now + LONG
    many = [asyncio.create_task(turns.next()) for _ in range(50)]
    await asyncio.sleep(0)
    assert turns.first(time.now) == time.now + SHORT
    ends = await asyncio.gather(*many)
    assert ends[0] == time.now + SHORT
    assert ends[-1] == time.now + LONG


def test_one_long_first_turn_in_a_window() -> None:
    turns = Turns(Hand())
    assert turns.first(100.0) == 100.0 + LONG
    assert turns.first(100.0 + LONG / 2) == 100.0 + LONG
    assert turns.first(100.0 + LONG) == 100.0 + LONG + SHORT
    assert turns.first(100.0 + WINDOW) == 100.0 + WINDOW + LONG


async def test_who_takes_more_than_its_turn_goes_on_behind_who_does_not() -> None:
    """A large message is handled in one piece, and a hundred clients with such hold up nobody."""
    time = Hand()
    turns = Turns(time)
    went: list[str] = []

    async def take(name: str, overran: float) -> None:
        await turns.next(time.now - overran)
        went.append(name)

    heavy = [asyncio.create_task(take("heavy", 2 * HEAVY)) for _ in range(20)]
    await asyncio.sleep(0)
    light = [asyncio.create_task(take("light", 0)) for _ in range(2)]
    await soon(asyncio.gather(*light))
    assert went.index("light") <= GRANTS
    await soon(asyncio.gather(*heavy))
    assert not turns.is_busy


async def test_those_who_take_more_are_not_forgotten_for_those_who_do_not() -> None:
    time = Hand()
    turns = Turns(time)
    heavy = asyncio.create_task(turns.next(time.now - 2 * HEAVY))
    light: list[asyncio.Task[float]] = []
    for _ in range(10):
        light += [asyncio.create_task(turns.next(time.now)) for _ in range(10)]
        await asyncio.sleep(0)
    assert heavy.done()
    await soon(asyncio.gather(*light))
