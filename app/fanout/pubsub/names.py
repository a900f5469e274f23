"""How things are called in Pub/Sub. Pure."""

import re
import zlib
from typing import NamedTuple

ORDERING_KEYS = 16


class TopicName(NamedTuple):
    """A topic in a project."""

    project: str
    topic: str

    @property
    def path(self) -> str:
        return f"projects/{self.project}/topics/{self.topic}"

    def subscription(self, subscription_id: str) -> str:
        """The full name of a subscription in the topic's project."""
        return f"projects/{self.project}/subscriptions/{subscription_id}"


def ordering_key(order: str) -> str:
    """One of the 16 keys, by a hash that is the same in every process."""
    return f"cs-{zlib.crc32(order.encode()) % ORDERING_KEYS:02d}"


def all_ordering_keys() -> list[str]:
    """Every key that `ordering_key` can answer."""
    return [f"cs-{number:02d}" for number in range(ORDERING_KEYS)]


def all_backlogs() -> list[str]:
    """The same, and none: what others publish without a key waits behind none of ours."""
    return [*all_ordering_keys(), ""]


def instance_subscription_id(prefix: str, instance_id: str, generation: int) -> str:
    """`<prefix>-<instance id>`; one that was rebuilt has `-2`, `-3` … behind it, a second look at any of them `-0`."""
    name = f"{prefix}-{instance_id}"
    return name if generation == 1 else f"{name}-{generation}"


def label(value: str) -> str:
    """The nearest thing to `value` that may be a label: lower case, digits, `_` and `-`, 63 characters."""
    return re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63]
