"""Provider factories, good and bad."""

from app.fanout import Fanout
from app.fanout.embedded import EmbeddedFanout


def makes_nothing() -> None:
    return None


def fails() -> Fanout:
    raise RuntimeError("no server")


def curious(topic: str, subscription: str) -> Fanout:
    print(f"a provider for {topic}, {subscription}", flush=True)
    return EmbeddedFanout()
