"""The Quart app: its routes, and how it is tied to the hub's life."""

from functools import partial

from quart import Quart, Response, request, websocket
from werkzeug.exceptions import HTTPException

from app.hub import Hub
from app.logs import current_trace, trace_of
from app.protocol import codec
from app.web.door import Door
from app.web.http import http_routes
from app.web.one_task import OneTaskConnection
from app.web.sockets import socket_routes, straight_way

EXTENSION = "cloud_sockets"
BODY_TIMEOUT = 20
"""Seconds in which the whole body of a request has to come; then it is answered 408."""


def create_quart(hub: Hub, door: Door, *, path: str, max_payload: int, secret_key: str | None) -> Quart:
    """An app that opens the hub when it is started and closes it when it is stopped."""
    app = Quart("app", static_folder=None)
    straight = straight_way(hub, door, path)
    app.asgi_websocket_class = partial(OneTaskConnection, straight=straight)  # type: ignore[assignment]
    app.secret_key = secret_key
    app.extensions[EXTENSION] = hub
    app.config["MAX_CONTENT_LENGTH"] = max_payload
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT
    app.register_blueprint(http_routes(hub, door, path))
    app.register_blueprint(socket_routes(hub, door, path))
    app.before_request(_note_trace_of_request)
    app.before_websocket(_note_trace_of_upgrade)
    app.before_serving(hub.open)
    app.after_serving(hub.close)
    app.register_error_handler(HTTPException, _json_error)
    return app


async def _note_trace_of_request() -> None:
    current_trace.set(trace_of(request.headers))


async def _note_trace_of_upgrade() -> None:
    current_trace.set(trace_of(websocket.headers))


async def _json_error(error: HTTPException) -> Response:
    headers = {name: value for name, value in error.get_headers() if name.lower() in ("allow", "retry-after")}
    return Response(
        codec.encode_json({"error": error.description}), error.code, headers, content_type="application/json"
    )
