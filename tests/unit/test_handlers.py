"""Custom handlers: what a bad one may not do."""

import asyncio
import threading
from typing import Any

import pytest

from app.handlers import COPIES, Handlers
from app.metrics import Metrics
from app.protocol.errors import ErrorCode, MessageError

NOBODY: Any = None


async def call(handlers: Handlers, kind: str) -> None:
    await handlers.call(kind, NOBODY, dict, NOBODY)


async def test_one_that_does_not_end_is_given_up() -> None:
    metrics = Metrics()

    async def endless(*_: Any) -> None:
        await asyncio.Event().wait()

    handlers = Handlers({"endless": endless}, metrics, timeout=0.01)
    with pytest.raises(MessageError, match="the handler of 'endless' took too long"):
        await call(handlers, "endless")
    assert b'cloud_sockets_handler_calls_total{result="timeout"} 1.0' in metrics.render()
    await handlers.close()


async def test_a_plain_one_that_hangs_in_its_thread_is_given_up_too() -> None:
    release = threading.Event()
    handlers = Handlers({"hung": lambda *_: release.wait(30)}, Metrics(), timeout=0.01)
    with pytest.raises(MessageError, match="took too long"):
        await call(handlers, "hung")
    release.set()
    await handlers.close()


async def test_what_went_wrong_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the password is swordfish")

    handlers = Handlers({"broken": broken}, Metrics())
    with pytest.raises(MessageError) as told:
        await call(handlers, "broken")
    assert "swordfish" not in str(told.value)
    assert "swordfish" in caplog.text
    await handlers.close()


async def test_it_goes_on_when_its_caller_is_gone() -> None:
    begun, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def patient(*_: Any) -> None:
        begun.set()
        await released.wait()
        ended.set()

    handlers = Handlers({"patient": patient}, Metrics())
    caller = asyncio.create_task(call(handlers, "patient"))
    await begun.wait()
    caller.cancel()
    released.set()
    async with asyncio.timeout(5):
        await ended.wait()
    await handlers.close()


async def test_messages_in_hand_are_bounded_also_of_clients_that_have_gone() -> None:
    """A handler that goes on when its client has gone keeps its message."""
    goes_on = asyncio.Event()

    async def slow(_connection: object, _message: object, _director: object) -> None:
        await goes_on.wait()

    handlers = Handlers({"slow": slow}, Metrics(), max_bytes=COPIES * 1000)
    gone = asyncio.create_task(handlers.call("slow", NOBODY, dict, NOBODY, 600))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(MessageError) as raised:
        await handlers.call("slow", NOBODY, dict, NOBODY, 600)
    assert raised.value.code is ErrorCode.UNAVAILABLE
    small = asyncio.create_task(handlers.call("slow", NOBODY, dict, NOBODY, 400))
    await asyncio.sleep(0)
    goes_on.set()
    await small
    await handlers.call("slow", NOBODY, dict, NOBODY, 1000)
    await handlers.close()
