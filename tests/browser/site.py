"""A web site that is not the hub's: a page, and the browser client."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.process import ROOT

CLIENT = ROOT / "app" / "static" / "client.js"
_LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")


@asynccontextmanager
async def site(
    policy: str | None = None, *scripts: Path, hear: Callable[[bytes], Awaitable[bytes]] | None = None
) -> AsyncIterator[str]:
    """Serve an empty page, with this Content-Security-Policy, `/client.js` and these scripts.

    Yields the page's address. `hear` answers what the page posts, with JSON.
    """
    files = {path.name: path for path in (CLIENT, *scripts)}

    async def content(reader: asyncio.StreamReader) -> tuple[str, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path, _ = head.decode().split(" ", 2)
        if method == "POST" and hear is not None:
            length = _LENGTH.search(head)
            return "application/json", await hear(await reader.readexactly(int(length[1]) if length else 0))
        if script := files.get(path.removeprefix("/")):
            return "text/javascript", script.read_bytes()
        return "text/html", b"<!doctype html><title>A page</title>"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            kind, body = await content(reader)
            headers = [
                "HTTP/1.1 200 OK",
                f"Content-Type: {kind}; charset=utf-8",
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
