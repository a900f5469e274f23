"""The answers to getInfo and getInfoDetail, in the seed's shape. Pure: it is handed what there is to tell."""

from collections.abc import Collection, Hashable, Iterable, Mapping
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from app.core.acknowledgements import AckQueue
from app.core.channels import ChannelManager
from app.core.users import UserMap

MAX_LISTED = 1000
MAX_LISTED_BYTES = 64 * 1024
"""Lists stop at so many entries, and at so many bytes of names in one answer, with `"truncated": true` beside what they
belong to. A question of 30 bytes may not bring megabytes."""

C = TypeVar("C", bound=Hashable)


class Viewer(NamedTuple, Generic[C]):
    """A client that asks. It sees counts, and the lists of what is its own."""

    connection: C
    user_name: str | None
    sees_channels: bool
    """True: the client may know which channels there are. On a laptop everybody may."""


class Listed:
    """Cuts the lists of one answer where they are too long, and remembers whether it had to."""

    def __init__(self) -> None:
        self.truncated = False
        self._room = MAX_LISTED_BYTES

    def of(self, names: Iterable[str], most: int = MAX_LISTED) -> list[str]:
        """Return as many of the names, from the first on, as there is room for."""
        listed: list[str] = []
        for name in islice(names, most + 1):
            if len(listed) == most or not self._takes(name):
                self.truncated = True
                break
            listed.append(name)
        return listed

    def connections(self, connections: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return as many of these descriptions of connections, from the first on, as there is room for."""
        listed: list[dict[str, Any]] = []
        for each in islice(connections, MAX_LISTED + 1):
            if len(listed) == MAX_LISTED or not self._takes(each["connectionId"] + each.get("user", "")):
                self.truncated = True
                break
            listed.append(each)
        return listed

    def _takes(self, name: str) -> bool:
        self._room -= len(name.encode(errors="surrogatepass"))
        return self._room >= 0


def info(
    server: Mapping[str, Any],
    connection_count: int,
    channels: ChannelManager[C],
    users: UserMap[C],
    acks: AckQueue[C],
    viewer: Viewer[C] | None = None,
) -> dict[str, Any]:
    """Return the answer to getInfo; `server`: what there is to tell of the instance itself. `viewer`: None sees all."""
    listed = Listed()
    answer = {
        "serverInfo": {**server, "eventEmitterListeners": listed.of(_channels_for(viewer, channels))},
        "connectionInfo": {"totalConnections": connection_count},
        "messageInfo": {
            "totalConnectionsAwaitingAck": acks.connection_count,
            "totalAwaitingMsgs": len(acks),
        },
        "channelInfo": {
            "totalConnections": len(channels.subscribed_connections()),
            "totalChannels": len(channels.channels),
            "totalSubscriptions": channels.subscription_count,
        },
        "uniqUserNameCount": len(users.names),
    }
    return answer | ({"truncated": True} if listed.truncated else {})


def info_detail(
    server: Mapping[str, Any],
    connection_count: int,
    channels: ChannelManager[C],
    users: UserMap[C],
    acks: AckQueue[C],
    channel: str | None = None,
    viewer: Viewer[C] | None = None,
    connections: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the answer to getInfoDetail: all of getInfo and the lists behind its numbers; of `channel` only, if given.

    `connections` is what is told of each to who sees all.
    """
    answer = info(server, connection_count, channels, users, acks, viewer)
    listed = Listed()
    if viewer is None:
        answer["messageInfo"]["awaitingMessages"] = listed.of(acks.message_ids())
        answer["uniqUserNames"] = listed.of(users.names)
        told = Listed()
        answer["connectionInfo"]["connections"] = told.connections(connections)
        listed.truncated |= told.truncated
    else:
        answer["messageInfo"]["awaitingMessages"] = listed.of(acks.message_ids_of(viewer.connection))
        answer["uniqUserNames"] = [] if viewer.user_name is None else [viewer.user_name]
    seen = _channels_for(viewer, channels)
    names = seen if channel is None else (channel,) if channel in seen else ()
    room = MAX_LISTED
    shown: dict[str, list[dict[str, Any]]] = {}
    for name in listed.of(names):
        if room <= 0:
            listed.truncated = True
            break
        counts = dict(islice(_subscriptions_for(viewer, channels, name), room + 1))
        shown[name] = [{"subId": sub_id, "numConnections": counts[sub_id]} for sub_id in listed.of(counts, room)]
        room -= len(shown[name])
    answer["channelInfo"]["channels"] = shown
    return answer | ({"truncated": True} if listed.truncated else {})


def _channels_for(viewer: Viewer[C] | None, channels: ChannelManager[C]) -> Collection[str]:
    if viewer is None or viewer.sees_channels:
        return channels.channels
    return channels.channels_of(viewer.connection)


def _subscriptions_for(
    viewer: Viewer[C] | None, channels: ChannelManager[C], channel: str
) -> Iterable[tuple[str, int]]:
    if viewer is None or viewer.sees_channels:
        return channels.subscriptions_of(channel)
    own = channels.sub_ids_of(viewer.connection, channel)
    return ((sub_id, len(channels.connections_of(channel, sub_id))) for sub_id in own)
