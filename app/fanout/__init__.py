"""The seam between the hub and whatever carries messages to all instances.

A fan-out is started with a function that takes what arrives, and publishes: what is published reaches ALL instances,
the publisher's too, and all of them see the messages of one channel in the same order. To write one of your own,
subclass `Fanout` (see the README for an example of thirty lines) and name its factory in CLOUD_SOCKETS_PUBSUB_PROVIDER.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import NamedTuple

PROCESS = "process"
"""Attribute that tells the messages of one process from all others': a random text, never shown to clients. Whoever may
publish can write an `origin`, which clients see; nobody can write this who may not subscribe to the topic."""
PROCESS_LENGTH = 32
"""Characters of it. No origin and no connection is named by so many, so that no two of these are taken for another."""


def process_of(attributes: Mapping[str, str]) -> str:
    """Return which process published a message; empty for what no hub did, or one of an older release."""
    process = attributes.get(PROCESS, "")
    return process if len(process) == PROCESS_LENGTH else ""


class Publication(NamedTuple):
    """What goes out: a message as JSON, with what carriers and filters may want to know of it without reading it."""

    data: bytes
    attributes: Mapping[str, str]

    @property
    def order(self) -> str:
        """Publications of the same order stay in order: the channel, else the user, else one for all the rest."""
        return self.attributes.get("channel") or self.attributes.get("userTag") or ""


class Delivery(NamedTuple):
    """What came in. `id` and `publish_time_ns` (Unix time) are the carrier's, the same everywhere; None: unknown."""

    data: bytes
    attributes: Mapping[str, str]
    """Read them while it is delivered; to keep them, copy them: they may hang on all that came together with it."""
    id: str | None = None
    publish_time_ns: int | None = None
    ordering_key: str | None = None
    """The carrier keeps the order of what has the same key; None: it was published without order."""
    live: bool = True
    """False: older than this instance. It is kept for clients that come back, and sent to nobody now."""
    sequence: int | None = None
    """What a carrier without publish times counts, from 1 on; the same everywhere in its `Fanout.epoch`."""

    @property
    def key(self) -> str | None:
        """What tells a repeat. With the time, because an emulator that is started anew counts from 1 again."""
        return None if self.id is None else f"{self.id} {self.publish_time_ns or 0}"

    @property
    def counted(self) -> tuple[str, str] | None:
        """Process or instance that counted this, and as what: the same pair is the same message. None: nobody did."""
        get = self.attributes.get
        sequence = get("seq")
        if not sequence:
            return None
        process = get(PROCESS)
        if process is not None and len(process) == PROCESS_LENGTH:  # `process_of`, for each message
            return process, sequence
        # A release before this one names its instance alone, which anybody may. So what it says counts too: then
        # nobody can use up a number for a message that they have not read.
        origin = get("origin")
        return (origin, f"{sequence} {blake2b(self.data, digest_size=16).hexdigest()}") if origin else None


Deliver = Callable[[Delivery], None]


class Peer(NamedTuple):
    """Another instance behind the same fan-out: its revision, where it told, and when it spoke last (Unix time)."""

    revision: str | None
    spoke_ns: int


class FanoutStartError(Exception):
    """The fan-out can never start as things are; the text names what is missing and what mends it."""


class Fanout(ABC):
    """Carries publications to all instances."""

    @abstractmethod
    async def start(self, deliver: Deliver) -> None:
        """Begin to hand what arrives to `deliver`, in order; return when it does arrive.

        May take as long as it takes: what cannot be reached now is tried again. Raises FanoutStartError where trying
        again is no use.
        """

    @abstractmethod
    async def publish(self, publication: Publication) -> str | None:
        """Return once the carrier has ACCEPTED it, with the carrier's id for it, if any.

        Up to its first await this runs in the order of the calls, so what is queued there keeps its order. Raises
        MessageError: `unavailable` where it may work later, `too_large` where it never fits.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was accepted, leave nothing behind. May be called at any time, also before or during `start`."""

    def unready_reasons(self) -> list[str]:
        """Why nothing may be arriving right now, in plain words; empty while all is well."""
        return []

    def notes(self) -> list[str]:
        """What its operator should know although all is well, in plain words."""
        return []

    @property
    def epoch(self) -> str:
        """Names the count that `Delivery.sequence` belongs to; empty where deliveries have a publish time.

        Up to 32 of [0-9A-Za-z_-].
        """
        return ""

    @property
    def covers_from(self) -> int | None:
        """The publish time (Unix ns) or sequence since which this instance has heard everything, as far as it knows.

        None: nothing can be proven now, as before it has started. What was published later and has not arrived yet is
        no gap: it still comes, as a live delivery. It moves forward where something was lost, before anything newer is
        delivered, and never back.
        """
        return None

    @property
    def begins_there(self) -> bool:
        """Whether there is nothing from before `covers_from`: the carrier began there, and remembers nothing older."""
        return False

    @property
    def heard_through(self) -> int | None:
        """While it catches up: the publish time (Unix ns) up to which all has been heard. None: it is up to date."""
        return None

    @property
    def deaf(self) -> bool:
        """Whether it has heard nothing for so long, another try included, that clients are better off elsewhere."""
        return False

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The other instances that were heard lately, by instance id, as far as the carrier knows any."""
        return {}

    @property
    def at_once(self) -> Callable[[Publication], None] | None:
        """Publishes without waiting: what it is given is delivered here when it returns. None: that takes its time."""
        return None

    @property
    def reaches_others(self) -> bool:
        """Whether there may be other instances behind it."""
        return True
