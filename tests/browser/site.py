"""A web site that is not the hub's: a page, and the browser client."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.process import ROOT

CLIENT = ROOT / "app" / "static" / "client.js"


@asynccontextmanager
async def site(policy: str | None = None) -> AsyncIterator[str]:
    """Serve an empty page, with this Content-Security-Policy, and `/client.js`; yields the page's address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            is_client = head.startswith(b"GET /client.js ")
            body = CLIENT.read_bytes() if is_client else b"<!doctype html><title>A page</title>"
            headers = [
                "HTTP/1.1 200 OK",
                f"Content-Type: {'text/javascript' if is_client else 'text/html'}; charset=utf-8",
                f"Content-Length: {len(body)}",
                "Connection: close",
                *([] if policy is None else [f"Content-Security-Policy: {policy}"]),
            ]
            writer.write("\r\n".join(headers).encode() + b"\r\n\r\n" + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
