"""Telling a page why it gets no socket: a browser shows it no status of an upgrade, only the code of a close."""

import asyncio
from contextlib import suppress

from quart import Websocket

from app.hub import Hub
from app.protocol.close_codes import CloseCode
from app.web.control import control_of

AT_ONCE = 100
"""Sockets that are open only to be closed; where there are more, the upgrade is answered."""
TIMEOUT = 3.0
"""Seconds in which such a socket is gone: the server gives its client 2 s to answer the close."""


class TurnAway:
    """Opens a socket and closes it at once, with a reason. It is none of the hub's connections."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._now = 0
        hub.metrics.watch(hub.metrics.connections_turned_away, lambda: self._now)

    async def __call__(self, upgrade: Websocket, code: CloseCode, reason: str) -> bool:
        """Return False, with nothing done, where too many are being told already."""
        if self._now >= AT_ONCE:
            return False
        self._now += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    await self._tell(upgrade, code, reason)
        finally:
            self._now -= 1
        return True

    async def _tell(self, upgrade: Websocket, code: CloseCode, reason: str) -> None:
        control = control_of(upgrade.scope)
        await upgrade.accept()
        await upgrade.send(self._hub.farewell(code, reason).text)
        await upgrade.close(code, reason)
        while True:  # until its client has answered, or was given up, and this is cancelled; what it says is not heard
            await (control.receive() if control is not None and control.takes_frames else upgrade.receive())
