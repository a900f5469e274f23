"""The app inside another one, whose server runs no lifespan for what is mounted there."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config
from websockets.exceptions import InvalidStatus

from app import Settings, create_app
from app.hub import Hub
from tests.support.client import Client
from tests.support.deadline import soon, until
from tests.support.process import Server, free_port

MOUNTED = "/hub"


class Parent:
    """An app with a mount as in any framework: requests below a path go to the app in it, the lifespan is its own."""

    def __init__(self, app: Any, *, starts: bool) -> None:
        self.app = app
        self.starts = starts
        self.port = free_port()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.app({**scope, "root_path": scope.get("root_path", "") + MOUNTED}, receive, send)
            return
        await receive()
        if self.starts:
            await self.app.startup()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self.starts:
            await self.app.shutdown()
        await send({"type": "lifespan.shutdown.complete"})

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{MOUNTED}/ws"


@asynccontextmanager
async def served(*, starts: bool) -> AsyncIterator[tuple[Server, Parent, Hub]]:
    app = create_app(Settings())
    parent = Parent(app, starts=starts)
    config = Config()
    config.bind = [f"127.0.0.1:{parent.port}"]
    config.accesslog = config.errorlog = None
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(parent, config, shutdown_trigger=stop.wait))
    requests = Server()
    requests.port = parent.port

    async def up() -> bool:
        try:
            return (await requests.get(f"{MOUNTED}/health/live")).status == 200
        except OSError:
            return False

    await until(up)
    try:
        yield requests, parent, app.extensions["cloud_sockets"]
    finally:
        stop.set()
        await soon(serving)


async def test_a_hub_that_nobody_started_refuses_and_says_what_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is answered as if it were delivered, on any way in."""
    async with served(starts=False) as (requests, parent, hub):
        with caplog.at_level(logging.ERROR, logger="app.hub"):
            for _ in range(3):
                answer = await requests.post(f"{MOUNTED}/api/messages", {"type": "broadcast"})
                assert (answer.status, answer.json["code"], answer.json["temporary"]) == (503, "unavailable", True)
                assert answer.headers["retry-after"] == "1"
                with pytest.raises(InvalidStatus) as refused:
                    await Client(parent.url).__aenter__()
                assert refused.value.response.status_code == 503
        (line,) = [record.message for record in caplog.records if record.name == "app.hub"]
        assert "app.startup()" in line
        ready = await requests.get(f"{MOUNTED}/health/ready")
        assert ready.status == 503
        assert "app.startup()" in ready.json["reasons"][0]
        with pytest.raises(Exception, match="not started"):
            await hub.emit("news", None, "announce")
        with pytest.raises(Exception, match="not started"):
            await hub.logout("ann")
        assert 'connections_refused_total{reason="not_started"} 3.0' in hub.metrics.render().decode()


async def test_a_hub_that_its_parent_starts_serves() -> None:
    async with served(starts=True) as (requests, parent, hub), Client(parent.url) as ann:
        await ann.subscribe("news")
        answer = await requests.post(f"{MOUNTED}/api/messages", {"type": "announce", "channel": "news", "payload": 1})
        assert answer.status == 202
        assert (await ann.receive())["payload"] == 1
        assert (await requests.get(f"{MOUNTED}/health/ready")).status == 200
        await ann.socket.close()
        await until(lambda: not hub.connections)
