"""Which instances live, by when they spoke last, and who clears up behind the dead. Pure.

All times are publish times (Unix nanoseconds): Pub/Sub's own clock, the same for everybody.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b

from app.fanout import Peer

MAX_PEERS = 10_000
"""As many as a topic takes subscriptions."""
MAX_NAME = 64


class Peers:
    """When each instance spoke last: any message of an instance is its heartbeat."""

    def __init__(self) -> None:
        self._spoke: dict[str, int] = {}
        self._revisions: dict[str, str] = {}
        self.overflowed = False
        """Whether an instance spoke that could not be noted: then silence proves nothing."""

    def spoke(self, instance_id: str, time_ns: int) -> None:
        """An instance said something."""
        before = self._spoke.get(instance_id)
        if before is None and (len(self._spoke) >= MAX_PEERS or len(instance_id) > MAX_NAME):
            self.overflowed = self.overflowed or len(instance_id) <= MAX_NAME
        elif before is None or before < time_ns:
            self._spoke[instance_id] = time_ns

    def told(self, instance_id: str, revision: str) -> None:
        """An instance that was noted told its revision."""
        if instance_id in self._spoke and len(revision) <= MAX_NAME:
            self._revisions[instance_id] = revision

    def last_of(self, instance_id: str) -> int:
        """When it spoke last; 0: it was never heard."""
        return self._spoke.get(instance_id, 0)

    def since(self, time_ns: int) -> dict[str, Peer]:
        """Those that have spoken since."""
        return {name: Peer(self._revisions.get(name), spoke) for name, spoke in self._spoke.items() if spoke >= time_ns}

    def forget_before(self, time_ns: int) -> None:
        """Keep only what was heard since."""
        self._spoke = {name: spoke for name, spoke in self._spoke.items() if spoke >= time_ns}
        self._revisions = {name: text for name, text in self._revisions.items() if name in self._spoke}
        self.overflowed = False


def instance_of(subscription: str, prefix: str) -> str | None:
    """Whose instance subscription it is, by its full name; None: it is none with this prefix."""
    found = re.fullmatch(rf"{re.escape(prefix)}-([0-9a-f]{{12}})(-\d+)?(-0)?", subscription.rpartition("/")[2])
    return None if found is None else found[1]


def silent(
    subscriptions: Mapping[str, int], peers: Peers, *, prefix: str, since_ns: int, now_ns: int, grace: float
) -> Iterator[str]:
    """The subscriptions whose instance has said nothing for `grace` seconds, all of which were listened to.

    `subscriptions`: full name -> when it was first seen. `since_ns`: since when everything was heard.
    """
    for name, first_seen_ns in subscriptions.items():
        instance_id = instance_of(name, prefix)
        if instance_id is not None:
            heard_from_ns = max(peers.last_of(instance_id), first_seen_ns, since_ns)
            if now_ns - heard_from_ns > grace * 10**9:
                yield name


def chosen(task: str, instances: Collection[str]) -> str:
    """Which of these does it: who knows the same instances answers the same, with no leader (rendezvous hashing)."""
    return max(instances, key=lambda instance: blake2b(f"{task} {instance}".encode()).digest())
