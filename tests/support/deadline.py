"""Waiting for an event, never for a time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds. Long enough for a slow machine; nothing waits this long where all is well."""


async def soon(awaitable: Awaitable[T], seconds: float = DEADLINE) -> T:
    """The result, if it comes before the deadline."""
    return await asyncio.wait_for(awaitable, seconds)


async def until(holds: Callable[[], bool | Awaitable[bool]], seconds: float = DEADLINE, what: str = "") -> None:
    """Ask again and again until it holds; for what gives no event of its own."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        answer = holds()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        if loop.time() > deadline:
            raise TimeoutError(what or "it did not come to hold")
        await asyncio.sleep(0.02)
