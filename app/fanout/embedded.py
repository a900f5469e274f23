"""The fan-out inside one process: nothing to install, nothing to wait for."""

from app.fanout import Deliver, Delivery, Fanout, Publication


class Bus:
    """What the hubs of one process hang on: one hub as a rule, several in a test of a cluster."""

    def __init__(self) -> None:
        self.members: dict[EmbeddedFanout, Deliver] = {}


class EmbeddedFanout(Fanout):
    """Hands what is published to every member of the bus, at once and in order."""

    def __init__(self, bus: Bus | None = None) -> None:
        self._bus = bus or Bus()

    async def start(self, deliver: Deliver) -> None:
        self._bus.members[self] = deliver

    async def publish(self, publication: Publication) -> None:
        delivery = Delivery(publication.data, publication.attributes)
        for deliver in tuple(self._bus.members.values()):
            deliver(delivery)

    async def close(self) -> None:
        self._bus.members.pop(self, None)

    @property
    def reaches_others(self) -> bool:
        return len(self._bus.members) > 1
