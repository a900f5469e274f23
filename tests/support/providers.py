"""Provider factories, good and bad."""

import asyncio
import signal

from app.fanout import Deliver, Fanout
from app.fanout.embedded import EmbeddedFanout


def makes_nothing() -> None:
    return None


def fails() -> Fanout:
    raise RuntimeError("no server")


def curious(topic: str, subscription: str) -> Fanout:
    print(f"a provider for {topic}, {subscription}", flush=True)
    return EmbeddedFanout()


class HardOfHearing(EmbeddedFanout):
    """Deaf from one SIGUSR1 to the next; for the hub that is all the same as if it were alone."""

    def __init__(self) -> None:
        super().__init__()
        self._deaf = False

    async def start(self, deliver: Deliver) -> None:
        await super().start(deliver)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._turn)

    def _turn(self) -> None:
        self._deaf = not self._deaf

    @property
    def deaf(self) -> bool:
        return self._deaf
