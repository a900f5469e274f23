"""The answers to getInfo and getInfoDetail, in the seed's shape. Pure: it is handed what there is to tell."""

from collections.abc import Hashable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from app.core.acknowledgements import AckQueue
from app.core.channels import ChannelManager
from app.core.users import UserMap

MAX_LISTED = 1000
"""Lists stop here, with `"truncated": true` beside what they belong to."""

C = TypeVar("C", bound=Hashable)


class Listed:
    """Cuts lists at MAX_LISTED and remembers whether it had to."""

    def __init__(self) -> None:
        self.truncated = False

    def of(self, items: Iterable[Any]) -> list[Any]:
        """The first MAX_LISTED items."""
        listed = list(islice(items, MAX_LISTED + 1))
        self.truncated |= len(listed) > MAX_LISTED
        return listed[:MAX_LISTED]


def info(
    server: Mapping[str, Any],
    connection_count: int,
    channels: ChannelManager[C],
    users: UserMap[C],
    acks: AckQueue[C],
) -> dict[str, Any]:
    """What getInfo answers; `server` is what there is to tell of the instance itself."""
    listed = Listed()
    answer = {
        "serverInfo": {**server, "eventEmitterListeners": listed.of(channels.channels)},
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
) -> dict[str, Any]:
    """What getInfoDetail answers: all of getInfo and the lists behind its numbers; of one `channel` only, if given."""
    answer = info(server, connection_count, channels, users, acks)
    listed = Listed()
    answer["messageInfo"]["awaitingMessages"] = listed.of(acks.message_ids())
    answer["uniqUserNames"] = listed.of(users.names)
    names = channels.channels if channel is None else (channel,) if channel in channels.channels else ()
    room = MAX_LISTED
    shown: dict[str, list[dict[str, Any]]] = {}
    for name in listed.of(names):
        subscriptions = listed.of(channels.subscriptions_of(name))
        if room <= 0:
            listed.truncated = True
            break
        listed.truncated |= len(subscriptions) > room
        shown[name] = [{"subId": sub_id, "numConnections": count} for sub_id, count in subscriptions[:room]]
        room -= len(shown[name])
    answer["channelInfo"]["channels"] = shown
    return answer | ({"truncated": True} if listed.truncated else {})
