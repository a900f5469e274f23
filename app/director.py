"""MessageDirector: the seed's methods on the hub, for custom handlers and for those who embed the service."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from app.protocol import codec, messages

if TYPE_CHECKING:
    from app.connection import Connection
    from app.hub import Hub, Published

P = ParamSpec("P")
T = TypeVar("T")


def _from_any_thread(
    method: Callable[Concatenate["MessageDirector", P], T],
) -> Callable[Concatenate["MessageDirector", P], T]:
    """Let other threads call a method too: it runs on the event loop, and the thread waits for its result."""

    @wraps(method)
    def call(self: "MessageDirector", *args: P.args, **kwargs: P.kwargs) -> T:
        loop = self.hub.loop
        if loop is None:
            raise RuntimeError("the hub is not started")
        try:
            if asyncio.get_running_loop() is loop:
                return method(self, *args, **kwargs)
        except RuntimeError:  # no loop in this thread
            pass

        async def run() -> Any:
            result = method(self, *args, **kwargs)
            return await result if isinstance(result, Awaitable) else result

        return asyncio.run_coroutine_threadsafe(run(), loop).result()  # type: ignore[no-any-return]

    return cast("Callable[Concatenate[MessageDirector, P], T]", call)


class MessageDirector:
    """Messages are dicts in the shape of the contract. All methods may be called from the event loop and from any other
    thread.

    `announce` and `handle_msg` are under way when they return: on the event loop their result may be awaited or left;
    in another thread they return when they are done. The other methods are done when they return. What is wrong with a
    message raises MessageError.
    """

    def __init__(self, hub: "Hub") -> None:
        self.hub = hub
        """All the rest: `connections`, `channels` (the ChannelManager), `users`, `emit`, `logout`."""

    @_from_any_thread
    def announce(
        self, message: Mapping[str, Any], channel: str | None = None, sub_id: str | None = None
    ) -> "Awaitable[Published]":
        """Send a message to a subscription, a channel, or all that are subscribed to anything; its type's rules hold,
        nobody is left out.

        The answer has the `id` of the message, and its `pubsub_id` where it went through Pub/Sub.
        """
        place = {"channel": channel, "subId": sub_id}
        given = {
            "type": messages.ANNOUNCE,
            **message,
            **{key: value for key, value in place.items() if value is not None},
        }
        return self.hub.start(self.hub.publish(codec.from_object(given)))

    @_from_any_thread
    def format_message(self, message: Mapping[str, Any]) -> str:
        """The message as JSON, with an id (its own, if it has one) and sentDateTime."""
        return codec.encode_frame(self.hub.stamp(codec.from_object(message))).text

    @_from_any_thread
    def get_info(self, connection: "Connection | None" = None) -> dict[str, Any]:
        """Return the answer to getInfo; if a connection is given, the answer to that one, which is sent to it too."""
        return self._inform(connection, messages.GET_INFO, self.hub.info(connection))

    @_from_any_thread
    def get_info_detail(self, connection: "Connection | None" = None, channel: str | None = None) -> dict[str, Any]:
        """Return the answer to getInfoDetail, of one channel or all: all of it, or what a connection may see, which is
        sent to it too.
        """
        return self._inform(connection, messages.GET_INFO_DETAIL, self.hub.info_detail(channel, connection))

    @_from_any_thread
    def handle_msg(self, connection: "Connection", message: Mapping[str, Any] | str) -> Awaitable[None]:
        """Do what a message asks for, as if this connection had sent it; the answer or error goes to the connection."""
        text = codec.well_formed(message) if isinstance(message, str) else codec.encode_json(message).decode()
        return self.hub.start(self.hub.receive(connection, text))

    @_from_any_thread
    def send_message(self, connection: "Connection", message: Mapping[str, Any]) -> str:
        """Send a message to one connection, to be acknowledged if its type is in ackMessageTypes; answers its id."""
        return self.hub.send(connection, codec.from_object(message)).id or ""

    @_from_any_thread
    def subscribe(self, connection: "Connection", channel: str, sub_id: str) -> None:
        """Subscribe a connection; it is told so."""
        self.hub.subscribe(connection, channel, sub_id)

    @_from_any_thread
    def unsubscribe(self, connection: "Connection", channel: str | None = None, sub_id: str | None = None) -> None:
        """Unsubscribe a connection from a subscription, a channel, or everything; it is told so."""
        self.hub.unsubscribe(connection, channel, sub_id)

    def _inform(self, connection: "Connection | None", type: str, answer: dict[str, Any]) -> dict[str, Any]:
        if connection is not None:
            self.hub.tell(connection, type=type, **answer)
        return {"type": type, **answer}
