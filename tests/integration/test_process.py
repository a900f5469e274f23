"""The process: how it starts, what it refuses to start with, and how it ends."""

import asyncio
import json
import signal
import socket

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.client import Client, narrow_socket
from tests.support.deadline import until
from tests.support.process import Server


@pytest.fixture(autouse=True)
def begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its users start it: these tests are about that."""
    monkeypatch.setattr(Server, "forked", False)


async def test_bad_variables_are_all_told_at_once_before_anything_listens() -> None:
    server = Server(
        CLOUD_SOCKETS_MAX_PAYLOAD="lots",
        CLOUD_SOCKETS_PATH="ws",
        CLOUD_SOCKETS_AUTH="none",
        CLOUD_SOCKETS_API_KEYS="two words",
    )
    await server.start()
    assert await server.wait() == 2
    lines = server.log.strip().splitlines()
    assert len(lines) == 4
    assert "CLOUD_SOCKETS_MAX_PAYLOAD is 'lots': allowed is a whole number of bytes from 1 to 10000000" in lines
    assert any(line.startswith("CLOUD_SOCKETS_PATH is 'ws'") for line in lines)
    assert any(line.startswith("CLOUD_SOCKETS_AUTH is 'none': allowed is anonymous or session") for line in lines)
    assert "two words" not in server.log


async def test_on_cloud_run_it_does_not_start_until_it_is_said_who_may_connect() -> None:
    server = Server(K_SERVICE="hub")
    await server.start()
    assert await server.wait() == 2
    assert "CLOUD_SOCKETS_AUTH is not set" in server.log


async def test_a_slip_of_the_pen_in_a_name_is_warned_of() -> None:
    async with Server(CLOUD_SOCKETS_MAX_PAYLOD="1") as server:
        await server.logged("did you mean CLOUD_SOCKETS_MAX_PAYLOAD?")


async def test_a_port_that_is_taken_is_told_without_a_traceback() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        server = Server(PORT=str(taken.getsockname()[1]))
        await server.start()
        assert await server.wait() == 1
    assert "cannot listen on port" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sends_all_clients_elsewhere_and_ends_it_in_order(number: signal.Signals) -> None:
    async with Server() as server:
        clients = [Client(server.url, compression=choice) for choice in (None, "deflate") for _ in range(10)]
        for client in clients:
            await client.__aenter__()
        loop = asyncio.get_running_loop()
        began = loop.time()
        server.terminate(number)
        for code, before in await asyncio.gather(*(client.closed() for client in clients)):
            assert code == 3001
            (farewell,) = before
            assert (farewell["type"], farewell["code"], farewell["reconnect"]) == ("disconnect", 3001, True)
            assert farewell["reason"]
            assert isinstance(farewell["retryAfterMs"], int)
        assert await server.wait(9) == 0
        assert loop.time() - began < 9


async def test_while_it_ends_it_is_not_ready_and_takes_no_sockets_but_answers_http() -> None:
    async with Server() as server:
        # A client that never reads its close frame keeps the drain going for a while.
        deaf = narrow_socket()
        await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", server.port))
        reader, writer = await asyncio.open_connection(sock=deaf)
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"welcome")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with Client(server.url) as flooder:
            for _ in range(60):  # more than the kernel's buffers hold for the one that does not read
                await flooder.send({"type": "broadcast", "payload": "x" * 100_000})
                await flooder.receive()
        server.terminate()

        async def not_ready() -> bool:
            return (await server.get("/health/ready")).status == 503

        await until(not_ready)
        ready = await server.get("/health/ready")
        assert "the instance is shutting down" in ready.json["reasons"]
        assert (await server.get("/health/live")).status == 200
        with pytest.raises(InvalidStatus) as refused:
            async with Client(server.url):
                pass
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"]
        assert await server.wait(9) == 0
        writer.close()


async def test_an_http_request_under_way_goes_on_to_its_end() -> None:
    async with Server() as server:
        body = b'{"type":"announce"}'
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        headers = ["Host: localhost", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        head = "\r\n".join(["POST /api/messages HTTP/1.1", *headers, "", ""])
        writer.write(head.encode() + body[:5])
        await writer.drain()
        assert (await server.get("/health/live")).status == 200  # so the request's head has been read
        server.terminate()
        await server.logged("stopping")
        writer.write(body[5:])
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 202")
        writer.close()
        assert await server.wait(9) == 0


async def test_on_cloud_run_the_log_is_json_with_severity_and_trace() -> None:
    async with Server(
        K_SERVICE="hub",
        K_REVISION="hub-00001",
        GOOGLE_CLOUD_PROJECT="demo",
        CLOUD_SOCKETS_AUTH="session",
        CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:fails",
    ) as server:
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        with pytest.raises(InvalidStatus):
            async with Client(server.url, additional_headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}):
                pass
        await server.logged("refused a socket")
        lines = [json.loads(line) for line in server.log.splitlines()]
        assert {line["severity"] for line in lines} == {"INFO", "WARNING", "ERROR"}
        assert all(line["message"] and line["time"] for line in lines)
        refusal = next(line for line in lines if "refused a socket" in line["message"])
        assert refusal["logging.googleapis.com/trace"] == f"projects/demo/traces/{trace}"
        failure = next(line for line in lines if line["severity"] == "ERROR")
        assert "the store of sessions is down" in failure["exception"]


async def test_on_a_terminal_the_log_is_text() -> None:
    async with Server() as server:
        for address in ("127.0.0.1", "[::1]"):
            assert f"Running on http://{address}:{server.port} (CTRL + C to quit)" in server.log
        assert not server.log.startswith("{")
