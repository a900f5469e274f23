"""Pages without a user: they are told why by a close, since a browser shows them no status."""

import asyncio
import json
from typing import Any

import pytest

from tests.security.wire import CLOSE, TEXT, connect, frame, split_frames, upgrade
from tests.support.deadline import soon, until
from tests.support.process import Server

SESSION = {"CLOUD_SOCKETS_AUTH": "session", "CLOUD_SOCKETS_SESSION_PARSER": "tests.support.sessions:from_header_async"}
REASON = "a session with a user is needed"


class Page:
    """A connection that asks for a socket as a page of the hub's own host does; `head` is how it was answered."""

    def __init__(self, server: Server, *, pieces: int = 1, origin: str | None = None, user: str | None = None) -> None:
        host = f"127.0.0.1:{server.port}"
        origin = origin or f"http://{host}"
        asked = upgrade(Host=host, Origin=origin) if user is None else upgrade(Host=host, Origin=origin, X_User=user)
        part = -(-len(asked) // pieces)
        self._pieces = [asked[at : at + part] for at in range(0, len(asked), part)]
        self._port = server.port
        self.head = b""
        self.frames: list[tuple[int, bytes]] = []

    async def ask(self) -> "Page":
        loop = asyncio.get_running_loop()
        self.raw = await connect(self._port)
        for piece in self._pieces:
            await loop.sock_sendall(self.raw, piece)
            await asyncio.sleep(0)
        return self

    async def read(self) -> "Page":
        """Read to the end; answers the close as a browser does."""
        loop = asyncio.get_running_loop()
        data = b""
        while more := await soon(loop.sock_recv(self.raw, 65536)):
            data += more
            self.head, _, rest = data.partition(b"\r\n\r\n")
            self.frames = list(split_frames(bytearray(rest))) if self.status == 101 else []
            if self.frames and self.frames[-1][0] & 0x0F == CLOSE:
                await loop.sock_sendall(self.raw, frame(CLOSE, self.frames[-1][1]))
        self.raw.close()
        return self

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for first, payload in self.frames if first & 0x0F == TEXT]

    @property
    def closed(self) -> tuple[int, str] | None:
        found = [payload for first, payload in self.frames if first & 0x0F == CLOSE]
        return (int.from_bytes(found[0][:2], "big"), found[0][2:].decode()) if found else None


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("pieces", [1, 3], ids=["read at once", "read as HTTP"])
async def test_a_page_without_a_user_is_told_and_closed(pieces: int) -> None:
    async with Server(**SESSION) as server:
        page = await (await Page(server, pieces=pieces).ask()).read()
        assert page.status == 101
        (farewell,) = page.messages
        assert farewell == {
            "type": "disconnect", "code": 3500, "reason": REASON, "reconnect": False, "retryAfterMs": 0,
            "id": farewell["id"], "sentDateTime": farewell["sentDateTime"],
        }  # fmt: skip
        assert page.closed == (3500, REASON)
        assert await server.metric('connections_refused_total{reason="unauthenticated"}') == 1
        assert await server.metric("connections_opened_total") == 0
        assert await server.metric("connections") == 0
        welcomed = await Page(server, pieces=pieces, user="ann").ask()
        loop = asyncio.get_running_loop()
        answer = b""
        while b'"welcome"' not in answer:
            more = await soon(loop.sock_recv(welcomed.raw, 65536))
            assert more
            answer += more
        welcomed.raw.close()


@pytest.mark.usefixtures("both_ways")
async def test_who_does_not_answer_the_close_is_gone_all_the_same() -> None:
    async with Server(**SESSION) as server:
        page = await Page(server).ask()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while await soon(loop.sock_recv(page.raw, 65536)):
            pass
        assert loop.time() - began < 4
        page.raw.close()

        async def none_is_left() -> bool:
            return await server.metric("connections_turned_away") == 0

        await until(none_is_left)


async def test_others_are_answered_with_a_status_as_before() -> None:
    async with Server(**SESSION) as server:
        page = await (await Page(server, origin="https://evil.example").ask()).read()
        assert (page.status, page.frames) == (403, [])
        raw = await connect(server.port)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(raw, upgrade())
        assert (await soon(loop.sock_recv(raw, 65536))).startswith(b"HTTP/1.1 401 ")
        raw.close()


async def test_a_page_whose_session_could_not_be_read_may_come_again() -> None:
    session = SESSION | {"CLOUD_SOCKETS_SESSION_PARSER": "tests.support.sessions:fails"}
    async with Server(**session) as server:
        page = await (await Page(server).ask()).read()
        assert (page.status, page.frames) == (401, [])


async def test_more_than_so_many_at_once_are_answered_with_a_status() -> None:
    async with Server(**SESSION) as server:
        silent = await asyncio.gather(*(Page(server).ask() for _ in range(100)))

        async def all_are_being_told() -> bool:
            return await server.metric("connections_turned_away") == 100

        await until(all_are_being_told)
        page = await (await Page(server).ask()).read()
        assert (page.status, page.frames) == (401, [])
        for each in silent:
            each.raw.close()
