"""The fan-out inside one process: nothing to install, nothing to wait for."""

from collections.abc import Callable

from app.fanout import Deliver, Delivery, Fanout, Publication


class Bus:
    """What the hubs of one process hang on: one hub as a rule, several in a test of a cluster."""

    def __init__(self, epoch: str = "embedded") -> None:
        self.members: dict[EmbeddedFanout, Deliver] = {}
        self.epoch = epoch
        """Another one for each process, so that no position outlives the count that it is from."""
        self.sequence = 0


class EmbeddedFanout(Fanout):
    """Hands what is published to every member of the bus, at once and in order."""

    def __init__(self, bus: Bus | None = None) -> None:
        self._bus = bus or Bus()
        self._from = 0

    async def start(self, deliver: Deliver) -> None:
        self._bus.members[self] = deliver
        self._from = self._bus.sequence

    async def publish(self, publication: Publication) -> None:
        self.hand_out(publication)

    def hand_out(self, publication: Publication) -> None:
        """The same for who cannot wait: this one never does."""
        bus = self._bus
        bus.sequence += 1
        delivery = Delivery(publication.data, publication.attributes, ordering_key="", sequence=bus.sequence)
        for deliver in tuple(bus.members.values()):
            deliver(delivery)

    async def close(self) -> None:
        self._bus.members.pop(self, None)

    @property
    def epoch(self) -> str:
        return self._bus.epoch

    @property
    def covers_from(self) -> int:
        return self._from

    @property
    def at_once(self) -> Callable[[Publication], None] | None:
        return self.hand_out

    @property
    def reaches_others(self) -> bool:
        return len(self._bus.members) > 1
