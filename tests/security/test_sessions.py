"""Sessions count for as long as they were given, at the door and on the open socket."""

import time
from http.cookies import SimpleCookie
from typing import Any

import pytest
from itsdangerous import TimestampSigner
from quart import Quart
from quart.sessions import SecureCookieSessionInterface

from tests.security.wire import RawSocket, RefusedError
from tests.support.client import Client
from tests.support.process import Server

pytestmark = pytest.mark.once

SECRET = "the same in both apps"
SESSION = {"CLOUD_SOCKETS_AUTH": "session", "SECRET_KEY": SECRET}
DAY = 24 * 3600


def cookie(age: float = 0, secret: str = SECRET, **more: Any) -> str:
    """The session of ann, signed so many seconds ago."""

    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(time.time() - age)

    app = Quart("login")
    app.secret_key = secret
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    serializer.signer = Signer
    return f"session={serializer.dumps({'user': 'ann', **more})}"


async def status(server: Server, **headers: Any) -> int:
    try:
        (await RawSocket.open(server.port, **headers)).close()
    except RefusedError as refused:
        return refused.status
    return 101


async def test_an_old_session_is_no_session() -> None:
    async with Server(**SESSION, CLOUD_SOCKETS_SESSION_LIFETIME="600") as server:
        assert [await status(server, Cookie=cookie(age)) for age in (0, 590, 601, DAY)] == [101, 101, 401, 401]
    async with Server(**SESSION) as server:
        assert [await status(server, Cookie=cookie(days * DAY)) for days in (30, 32)] == [101, 401]


async def test_a_session_from_a_time_to_come_is_none() -> None:
    async with Server(**SESSION) as server:
        assert await status(server, Cookie=cookie(-3600)) == 401


@pytest.mark.parametrize("module", ["app", "tests.support.by_message"])
async def test_a_session_that_ends_takes_its_sockets_with_it(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "module", module)
    async with Server(**SESSION, CLOUD_SOCKETS_SESSION_LIFETIME="600") as server:
        async with (
            Client(server.url, additional_headers={"Cookie": cookie()}) as stays,
            Client(server.url, additional_headers={"Cookie": cookie(598)}) as first,
            Client(server.url, additional_headers={"Cookie": cookie(598)}) as second,
        ):
            for client in (first, second):
                code, before = await client.closed()
                assert code == 3005
                (farewell,) = before
                assert (farewell["type"], farewell["code"], farewell["reason"], farewell["reconnect"]) == (
                    "disconnect",
                    3005,
                    "session expired",
                    True,
                )
            assert await stays.nothing_came()
            assert (await stays.ask({"type": "getInfo"}))["connectionInfo"]["totalConnections"] == 1
        assert await server.metric('connections_closed_total{code="3005"}') == 2


async def test_a_session_of_a_parser_of_ones_own_counts_from_the_upgrade() -> None:
    async with Server(
        CLOUD_SOCKETS_AUTH="session",
        CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:from_header_async",
        CLOUD_SOCKETS_SESSION_LIFETIME="1",
    ) as server:
        async with Client(server.url, additional_headers={"X-User": "ann"}) as ann:
            assert (await ann.closed())[0] == 3005
        assert await status(server, X_User="ann") == 101  # the parser was asked again


async def test_no_request_to_the_service_makes_a_session_last_longer() -> None:
    """Quart renews a permanent session with each answer: whoever asks for anything would stay signed in for ever."""
    async with Server(**SESSION, CLOUD_SOCKETS_SESSION_LIFETIME="600") as server:
        mine = cookie(300, _permanent=True)
        assert await status(server, Cookie=mine) == 101
        for path in ("/health/live", "/client.js", "/ws", "/nowhere"):
            told = await server.get(path, Cookie=mine)
            assert not SimpleCookie(told.headers.get("set-cookie", "")), path


async def test_a_key_with_a_line_break_is_told_of_and_not_shown() -> None:
    async with Server(CLOUD_SOCKETS_AUTH="session", SECRET_KEY="hush hush\n") as server:
        assert "SECRET_KEY begins or ends with white space" in server.log
        assert "hush" not in server.log
        assert await status(server, Cookie=cookie(secret="hush hush")) == 401
        assert await status(server, Cookie=cookie(secret="hush hush\n")) == 101
