"""What waits for an app, and the task the app runs in: Hypercorn's, with less around it."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any


class Inbox:
    """A queue with one reader, bounded by who fills it: see `Control.passed_on`. asyncio's own takes 3 kB."""

    __slots__ = ("_events", "_waiter", "bytes")

    def __init__(self) -> None:
        self._events: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.bytes = 0
        """Of the messages in it, as they take memory."""

    def __bool__(self) -> bool:
        return bool(self._events)

    async def put(self, event: Any) -> None:
        """Add one. Never waits."""
        self.add(event)

    def add(self, event: Any) -> None:
        """The same, for who cannot wait."""
        self._events.append(event)
        self.bytes += _size_of(event)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return once there is one."""
        while not self._events:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def get(self) -> Any:
        """The next, once it is there."""
        await self.wait()
        event = self._events.popleft()
        self.bytes -= _size_of(event)
        return event

    def take_all(self) -> list[Any]:
        """All that is there now."""
        events = list(self._events)
        self._events.clear()
        self.bytes = 0
        return events

    def drop_messages(self) -> None:
        """Forget the messages; what tells of the connection stays."""
        others = [event for event in self.take_all() if event["type"] != "websocket.receive"]
        self._events.extend(others)


def _size_of(event: Any) -> int:
    data = event.get("text") or event.get("bytes")
    return 0 if data is None else int(data.__sizeof__())


class AppTasks:
    """A connection's group of tasks, as Hypercorn's stream wants it to start the app."""

    __slots__ = ("_group", "_inbox")

    def __init__(self, group: Any, inbox: Inbox) -> None:
        self._group = group
        self._inbox = inbox

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Run something in the group."""
        self._group.spawn(function, *arguments)

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Callable[[Any], Awaitable[None]]) -> Any:
        """Run the app; answers how to hand it what comes."""
        self._group.spawn(_run, app, config, scope, self._inbox.get, send)
        return self._inbox.put


async def _run(app: Any, config: Any, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    try:
        # What Hypercorn hands over behind these is for apps without ASGI, and they have no sockets.
        await app(scope, receive, send, None, None)
    except Exception:
        await config.log.exception("Error in ASGI Framework")
    finally:
        await send(None)
