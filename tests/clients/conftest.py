"""A scripted server and an application for each test."""

from collections.abc import AsyncIterator

import pytest

from tests.clients.application import App
from tests.support.scripted_server import ScriptedServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
def app() -> App:
    return App()
