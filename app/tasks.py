"""An owner for tasks that run beside their starter."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)


class TaskOwner:
    """Keeps the tasks it started until they end, and awaits or cancels the rest on close.

    `expected` are the exceptions that the starter of a task deals with, or may ignore; any other is logged.
    """

    def __init__(self, *expected: type[Exception]) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._expected = expected

    def start(self, coroutine: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run a coroutine; its task may be awaited or left to its owner."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, self._expected):
            logger.error("a background task failed", exc_info=error)

    async def finish(self, timeout: float) -> None:
        """Wait for all tasks, `timeout` seconds at most; what runs on then is cancelled."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=1)

    def __len__(self) -> int:
        return len(self._tasks)
