"""The Quart app: its routes, and how it is tied to the hub's life."""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from quart import Quart, Response, request, websocket
from werkzeug.exceptions import HTTPException

from app.hub import Hub
from app.logs import current_trace, trace_of
from app.protocol import codec
from app.web.door import OTHER_HOST, Door
from app.web.http import http_routes
from app.web.one_task import HTTPConnection, OneTaskConnection
from app.web.session_cookies import DatedSessions
from app.web.sockets import socket_routes, straight_way
from app.web.targets import host_of

logger = logging.getLogger(__name__)

EXTENSION = "cloud_sockets"
BODY_TIMEOUT = 20
"""Seconds in which the whole body of a request has to come; then it is answered 408."""


def create_quart(
    hub: Hub, door: Door, *, path: str, max_payload: int, secret_key: str | None, session_lifetime: int
) -> Quart:
    """An app that opens the hub when it is started and closes it when it is stopped."""
    app = Quart("app", static_folder=None)
    app.url_map.merge_slashes = False  # a path is what it is
    app.session_interface = DatedSessions()
    app.permanent_session_lifetime = timedelta(seconds=session_lifetime)
    # Quart signs a permanent session anew with each answer: any request to this service would make it last longer.
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    app.asgi_http_class = HTTPConnection
    straight = straight_way(hub, door, path)
    app.asgi_websocket_class = partial(OneTaskConnection, straight=straight)  # type: ignore[assignment]
    app.secret_key = secret_key
    app.extensions[EXTENSION] = hub
    app.config["MAX_CONTENT_LENGTH"] = max_payload
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT
    app.register_blueprint(http_routes(hub, door, path))
    app.register_blueprint(socket_routes(hub, door, path))
    app.before_request(_note_trace_of_request)
    if door.takes_host is not None:
        app.before_request(partial(_refuse_other_hosts, door.takes_host))
    app.before_websocket(_note_trace_of_upgrade)
    app.before_serving(hub.open)
    app.after_serving(hub.close)
    app.register_error_handler(HTTPException, _json_error)
    return app


async def _note_trace_of_request() -> None:
    current_trace.set(trace_of(request.headers))


async def _note_trace_of_upgrade() -> None:
    current_trace.set(trace_of(websocket.headers))


async def _refuse_other_hosts(takes_host: Callable[[str], bool]) -> Response | None:
    """Answer 421 to a request for another host: by a name of its own a page anywhere could have a browser ask here."""
    host = host_of(request.scope["headers"])
    if host is None or takes_host(host):
        return None
    logger.warning("refused a request for the host %.200r: %s", host, OTHER_HOST)
    return Response(codec.encode_json({"error": OTHER_HOST}), 421, content_type="application/json")


async def _json_error(error: HTTPException) -> Response:
    headers = {name: value for name, value in error.get_headers() if name.lower() in ("allow", "retry-after")}
    return Response(
        codec.encode_json({"error": error.description}), error.code, headers, content_type="application/json"
    )
