"""Fair shares of the event loop."""

import asyncio
from itertools import pairwise

from app.server.turns import GRANTS, LONG, SHORT, WINDOW, Turns
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
