"""Fixtures that all tests share."""

import os
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.emulator import Emulator, NoEmulator
from tests.support.pubsub_server import PubSubServer

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def _start_emulator() -> Emulator:
    try:
        return Emulator().start()
    except NoEmulator as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason))
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def emulator_address() -> Iterator[str]:
    """The emulator that PUBSUB_EMULATOR_HOST names, or one that lasts as long as the tests."""
    if given := os.environ.get("PUBSUB_EMULATOR_HOST"):
        yield given
        return
    emulator = _start_emulator()
    yield emulator.address
    emulator.kill()


@pytest.fixture
def own_emulator() -> Iterator[Emulator]:
    """An emulator that the test may pause and kill."""
    emulator = _start_emulator()
    yield emulator
    emulator.resume()
    emulator.kill()


@pytest.fixture
async def pubsub_server() -> AsyncIterator[PubSubServer]:
    """A Pub/Sub with faults, in this process."""
    async with PubSubServer() as server:
        yield server


@pytest.fixture
def topic() -> str:
    """A topic's name that no other test has."""
    return f"topic-{uuid.uuid4().hex[:12]}"
