"""Session parsers, as a user of the service writes them."""

import asyncio
from typing import Any


def from_header(websocket: Any) -> dict[str, Any]:
    return {"account": websocket.headers.get("X-Account")}


async def from_header_async(websocket: Any) -> dict[str, Any]:
    return {"user": websocket.headers.get("X-User")}


def fails(websocket: Any) -> dict[str, Any]:
    raise RuntimeError("the store of sessions is down")


async def slow(websocket: Any) -> dict[str, Any]:
    await asyncio.sleep(1)
    return {"user": websocket.headers.get("X-User")}


def from_query(websocket: Any) -> dict[str, Any]:
    return {"user": websocket.args.get("who")}
