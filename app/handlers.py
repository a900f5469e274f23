"""Custom message handlers: running what the user wrote, without letting it harm the rest."""

import asyncio
import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from app.metrics import Metrics
from app.protocol.errors import ErrorCode, MessageError
from app.tasks import TaskOwner

if TYPE_CHECKING:
    from app.connection import Connection
    from app.director import MessageDirector

logger = logging.getLogger(__name__)

HANDLER_TIMEOUT = 30.0
FINISH_TIMEOUT = 1.0
COPIES = 3
"""How often a message is in memory while it is handled: as text, as bytes, and as the handler's object."""
MAX_THREADS = 32
"""Plain functions that run at the same time; more wait, and their wait counts towards the timeout."""

Handler = Callable[["Connection", dict[str, Any], "MessageDirector"], Any]


class Handlers:
    """The handlers by message type. Coroutine functions run on the event loop, plain ones in a worker thread."""

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        metrics: Metrics,
        timeout: float = HANDLER_TIMEOUT,
        max_bytes: int = sys.maxsize,
    ) -> None:
        """Take handlers by type; `max_bytes` bounds the messages that are handled at the same time."""
        self._handlers = dict(handlers)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._metrics = metrics
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="handler")
        self._tasks = TaskOwner(MessageError)

    async def call(
        self,
        type: str,
        connection: "Connection",
        message: Callable[[], dict[str, Any]],
        director: "MessageDirector",
        size: int = 0,
    ) -> None:
        """Run the handler of this type to its end. `message` makes what it is handed; that is of `size` bytes.

        A handler goes on when its client leaves meanwhile: what it does for others shall not be left half done. So its
        message counts until it ends, whatever becomes of the client. Raises MessageError: `handler_failed`, without
        what went wrong, and `unavailable` where too much is being handled.
        """
        size *= COPIES
        if self._bytes + size > self._max_bytes:
            raise MessageError(ErrorCode.UNAVAILABLE, "too many messages are being handled; try again")
        self._bytes += size
        try:
            task = self._tasks.start(self._run(type, connection, message(), director))
        except BaseException:
            self._bytes -= size
            raise
        task.add_done_callback(lambda _: self._release(size))
        await asyncio.shield(task)

    def _release(self, size: int) -> None:
        self._bytes -= size

    async def _run(
        self, type: str, connection: "Connection", message: dict[str, Any], director: "MessageDirector"
    ) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._invoke(self._handlers[type], connection, message, director)
        except TimeoutError as error:
            self._metrics.handler_calls.labels("timeout").inc()
            logger.error("the handler of %r did not end in %.0f s", type, self._timeout, exc_info=error)
            raise MessageError(ErrorCode.HANDLER_FAILED, f"the handler of {type!r} took too long") from None
        except Exception as error:
            self._metrics.handler_calls.labels("failed").inc()
            logger.error("the handler of %r failed", type, exc_info=error)
            raise MessageError(ErrorCode.HANDLER_FAILED, f"the handler of {type!r} failed") from None
        self._metrics.handler_calls.labels("done").inc()

    async def _invoke(
        self, handler: Handler, connection: "Connection", message: dict[str, Any], director: "MessageDirector"
    ) -> None:
        if _is_coroutine_function(handler):
            await handler(connection, message, director)
            return
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._threads, handler, connection, message, director)
        if inspect.isawaitable(result):  # a plain function that answers a coroutine, such as a lambda
            await result

    async def close(self) -> None:
        """Take no more calls, and end those that run; a thread that runs on is not waited for."""
        await self._tasks.finish(FINISH_TIMEOUT)
        self._threads.shutdown(wait=False, cancel_futures=True)


def _is_coroutine_function(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 - an object with an async __call__ is meant
