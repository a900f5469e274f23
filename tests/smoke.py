"""Is a service that runs somewhere alive? `python -m tests.smoke URL` tries it as a client would, over real sockets.

Two clients open a socket, one subscribes, the other announces, and the announce must arrive. What a closed service
needs comes from the environment, so that it is in no list of processes:

- SMOKE_ID_TOKEN: a Google identity token, for a service that not everybody may call.
- SMOKE_SECRET_KEY: the service's SECRET_KEY, to sign in where CLOUD_SOCKETS_AUTH=session. Without it such a service
  passes when it refuses the socket with 401.
- SMOKE_USER_PROPS: its CLOUD_SOCKETS_INCLUDE_USER_PROPS.
"""

import argparse
import asyncio
import json
import os
import sys
import uuid
from typing import Any
from urllib.parse import urlsplit

from quart import Quart
from quart.sessions import SecureCookieSessionInterface
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

TIMEOUT = 30.0
"""Seconds for everything together; a new instance may still be starting."""


class SmokeError(Exception):
    """What is wrong, in a sentence."""


def session_cookie(secret_key: str, user_props: list[str]) -> str:
    """The signed session of a user called smoke-test, as any Flask or Quart app with this key would issue it."""
    app = Quart(__name__)
    app.secret_key = secret_key
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    user = dict.fromkeys(user_props, "smoke-test") if user_props else "smoke-test"
    return f"session={serializer.dumps({'user': user})}"


async def smoke(url: str, path: str, headers: dict[str, str], *, closed: bool = False) -> str:
    """Try the service at this address; answers what was seen. Raises SmokeError. `closed`: it must refuse with 401."""
    parts = urlsplit(url)
    socket_url = f"{'wss' if parts.scheme in ('https', 'wss') else 'ws'}://{parts.netloc}{path}"
    options = {"additional_headers": headers, "open_timeout": TIMEOUT}
    try:
        async with asyncio.timeout(TIMEOUT):
            async with connect(socket_url, **options) as listener, connect(socket_url, **options) as speaker:  # type: ignore[arg-type]
                seen = await _talk(listener, speaker)
    except InvalidStatus as refused:
        status = refused.response.status_code
        if closed and status == 401:
            return "it is alive, and refuses a socket without a session (401)"
        raise SmokeError(f"the socket was refused with {status}: {(refused.response.body or b'')[:200]!r}") from None
    except TimeoutError:
        raise SmokeError(f"nothing more came from {socket_url} in {TIMEOUT:.0f} s") from None
    except (OSError, WebSocketException) as error:
        raise SmokeError(f"{socket_url}: {type(error).__name__}: {error}") from None
    if closed:
        raise SmokeError("the socket was opened without a session")
    return seen


async def _talk(listener: ClientConnection, speaker: ClientConnection) -> str:
    welcome = await _next(listener, "welcome")
    await _next(speaker, "welcome")
    channel = f"smoke-{uuid.uuid4()}"
    await listener.send(json.dumps({"type": "subscribe", "channel": channel, "subId": "smoke"}))
    await _next(listener, "ack")
    await speaker.send(json.dumps({"type": "announce", "channel": channel, "payload": channel, "ackId": 1}))
    await _next(speaker, "ack")
    announce = await _next(listener, "announce")
    if announce.get("payload") != channel:
        raise SmokeError(f"the announce arrived changed: {announce}")
    way = "through Pub/Sub" if "pubsubId" in announce else "inside the instance"
    return f"instance {welcome['instanceId']} carried an announce from one socket to another {way}"


async def _next(socket: ClientConnection, kind: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await socket.recv())
    if message.get("type") != kind:
        raise SmokeError(f"instead of {kind!r} came {message}")
    return message


def main() -> int:
    """Answers the exit status: 0, or 1 with a sentence."""
    parser = argparse.ArgumentParser(prog="python -m tests.smoke", description="Try a service that runs somewhere.")
    parser.add_argument("url", help="its address, such as https://sockets.example.com")
    parser.add_argument("--path", default="/ws", help="its CLOUD_SOCKETS_PATH")
    parser.add_argument("--session", action="store_true", help="it has CLOUD_SOCKETS_AUTH=session")
    parser.add_argument("--header", action="append", default=[], metavar="NAME:VALUE", help="a header to send along")
    arguments = parser.parse_args()
    headers = dict(header.split(":", 1) for header in arguments.header)
    if token := os.environ.get("SMOKE_ID_TOKEN"):
        headers["X-Serverless-Authorization"] = f"Bearer {token}"  # Authorization is the service's own
    secret_key = os.environ.get("SMOKE_SECRET_KEY")
    if arguments.session and secret_key:
        props = [prop for prop in os.environ.get("SMOKE_USER_PROPS", "").split(",") if prop]
        headers["Cookie"] = session_cookie(secret_key, props)
    closed = arguments.session and not secret_key
    try:
        print(asyncio.run(smoke(arguments.url, arguments.path, headers, closed=closed)))
    except SmokeError as error:
        print(f"the service does not work: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
