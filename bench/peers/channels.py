"""The service's logic for the Python peers: channels, subIds, announce; nothing else."""

import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

Send = Callable[[str], Awaitable[None]]


def encode(message: dict[str, Any]) -> str:
    """A message as the server sends it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({**message, "id": str(uuid.uuid4()), "sentDateTime": now}, separators=(",", ":"))


class Channels:
    """channel -> subId -> how to send to each socket."""

    def __init__(self) -> None:
        self._channels: dict[str, dict[str, dict[Send, None]]] = {}
        self._connections = 0

    async def welcome(self, send: Send) -> None:
        """Greet a socket."""
        self._connections += 1
        greeting = {"type": "welcome", "numConnections": self._connections, "connectionId": str(uuid.uuid4())}
        await send(encode(greeting))

    async def receive(self, send: Send, text: str, joined: list[tuple[str, str]]) -> None:
        """Do what a socket asks for; `joined` are its subscriptions."""
        message = json.loads(text)
        place = message["channel"], message["subId"]
        if message["type"] == "subscribe":
            receivers = self._channels.setdefault(place[0], {}).setdefault(place[1], {})
            receivers[send] = None
            joined.append(place)
            reply = {"type": "ack", "channel": place[0], "subId": place[1], "numConnections": len(receivers)}
            await send(encode(reply))
        elif message["type"] == "announce":
            encoded = encode(message)  # once, not for each receiver
            for receiver in tuple(self._channels.get(place[0], {}).get(place[1], ())):
                if receiver is not send:
                    with suppress(Exception):  # whoever has just gone
                        await receiver(encoded)

    def forget(self, send: Send, joined: list[tuple[str, str]]) -> None:
        """A socket is gone."""
        self._connections -= 1
        for channel, sub_id in joined:
            subscriptions = self._channels[channel]
            subscriptions[sub_id].pop(send, None)
            if not subscriptions[sub_id]:
                del subscriptions[sub_id]
            if not subscriptions:
                del self._channels[channel]
