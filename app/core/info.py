"""The answers to getInfo and getInfoDetail, in the seed's shape. Pure: it is handed what there is to tell."""

from collections.abc import Hashable, Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from app.core.acknowledgements import AckQueue
from app.core.channels import ChannelManager
from app.core.users import UserMap

MAX_LISTED = 1000
MAX_LISTED_BYTES = 64 * 1024
"""Lists stop at so many entries, and at so many bytes of names in one answer, with `"truncated": true` beside what they
belong to. A question of 30 bytes may not bring megabytes."""

C = TypeVar("C", bound=Hashable)


class Listed:
    """Cuts the lists of one answer where they are too long, and remembers whether it had to."""

    def __init__(self) -> None:
        self.truncated = False
        self._room = MAX_LISTED_BYTES

    def of(self, names: Iterable[str], most: int = MAX_LISTED) -> list[str]:
        """Return as many of the names, from the first on, as there is room for."""
        listed: list[str] = []
        for name in islice(names, most + 1):
            self._room -= len(name.encode(errors="surrogatepass"))
            if len(listed) == most or self._room < 0:
                self.truncated = True
                break
            listed.append(name)
        return listed


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
        if room <= 0:
            listed.truncated = True
            break
        counts = dict(islice(channels.subscriptions_of(name), room + 1))
        shown[name] = [{"subId": sub_id, "numConnections": counts[sub_id]} for sub_id in listed.of(counts, room)]
        room -= len(shown[name])
    answer["channelInfo"]["channels"] = shown
    return answer | ({"truncated": True} if listed.truncated else {})
