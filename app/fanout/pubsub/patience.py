"""Waiting that counts only the time in which this process runs.

Cloud Run takes an idle instance's CPU away, and the clock goes on meanwhile. After that nobody may be blamed for
having been silent: what came is still unread.
"""

import asyncio
import contextlib
from collections.abc import Callable

OVERSLEPT = 0.5
"""Seconds by which a timer may be late before this process must have been stopped, or starved."""
MAX_NAPS = 3
"""A process that is always late is busy, not asleep: then time counts as it is."""


class Patience:
    """Waits for events in small steps of `step` seconds, and tells `on_stop` how many seconds were slept through."""

    def __init__(self, step: float, on_stop: Callable[[float], None] = lambda _: None) -> None:
        self.step = step
        self._on_stop = on_stop
        self._awake: float | None = None

    def asleep_for(self, now: float) -> float:
        """How long this process has not been seen running; `now` is the loop's time."""
        return 0.0 if self._awake is None else now - self._awake - self.step

    async def wait(self, event: asyncio.Event) -> bool:
        """Wait for one step, in seconds awake; answers whether the event came."""
        loop = asyncio.get_running_loop()
        for _ in range(MAX_NAPS):
            begun = self._awake = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.step):
                    await event.wait()
                    return True
            late = loop.time() - begun - self.step
            if late < OVERSLEPT:
                return False
            self._on_stop(late)
        return False
