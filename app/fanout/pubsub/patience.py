"""Waiting that counts only the time in which this process runs.

Cloud Run takes an idle instance's CPU away, and the clock goes on meanwhile. After that nobody may be blamed for
having been silent: what came is still unread.
"""

import asyncio
import contextlib

OVERSLEPT = 0.5
"""Seconds by which a timer may be late before this process must have been stopped, or starved."""
MAX_NAPS = 3
"""A process that is always late is busy, not asleep: then time counts as it is."""


class Patience:
    """Waits for events in small steps. `overslept` is the longest stop that was noticed since it was last reset."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.overslept = 0.0

    async def wait(self, event: asyncio.Event) -> bool:
        """Wait for one step, in seconds awake; answers whether the event came."""
        loop = asyncio.get_running_loop()
        for _ in range(MAX_NAPS):
            begun = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.step):
                    await event.wait()
                    return True
            late = loop.time() - begun - self.step
            if late < OVERSLEPT:
                return False
            self.overslept = max(self.overslept, late)
        return False
