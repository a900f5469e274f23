"""A handler in one task, whose client goes when it likes."""

import asyncio
from typing import Any

import pytest
from quart import Quart

from app.server.control import Control
from app.web.control import CONTROL
from app.web.one_task import OneTaskConnection
from tests.support.deadline import soon, until


class Handler(OneTaskConnection):
    """One that has no end of its own."""

    ran = False
    ended = False

    async def handle(self, _control: Any, _send: Any) -> None:
        self.ran = True
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


async def nothing(*_: Any) -> None:
    """Neither received nor sent."""


def make() -> tuple[Handler, Control]:
    control = Control(None, lambda _code, _reason: None)
    control._transport = object()
    scope: Any = {
        "type": "websocket", "path": "/ws", "raw_path": b"/ws", "query_string": b"", "headers": [], "scheme": "ws",
        "http_version": "1.1", "root_path": "", "client": None, "subprotocols": [], "extensions": {CONTROL: control},
    }  # fmt: skip
    return Handler(Quart(__name__), scope), control


async def test_a_client_that_goes_stops_the_handler_and_nothing_else() -> None:
    handler, control = make()
    task = asyncio.create_task(handler(nothing, nothing))
    await until(lambda: handler.ran)
    control.gone()
    await soon(task)
    assert handler.ended
    assert not task.cancelled()


async def test_for_a_client_that_has_gone_before_nothing_is_begun() -> None:
    handler, control = make()
    control.gone()
    await soon(handler(nothing, nothing))
    assert not handler.ran


async def test_who_stops_the_task_itself_does() -> None:
    handler, control = make()
    task = asyncio.create_task(handler(nothing, nothing))
    await until(lambda: handler.ran)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert handler.ended
    assert control.on_gone is None
