"""The HTTP routes: health, publish, info, metrics, and the browser client."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from quart import Blueprint, Response, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from app.addresses import is_loopback_address
from app.hub import Hub
from app.metrics import CONTENT_TYPE
from app.protocol import codec, messages
from app.protocol.errors import ErrorCode, MessageError
from app.web.door import Door
from app.web.targets import names

logger = logging.getLogger(__name__)

JSON = "application/json"
STATUS = {
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.USER_OFFLINE: 404,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.UNAVAILABLE: 503,
    ErrorCode.INTERNAL: 500,
}
"""The HTTP status of an error; 400 for all others."""
FORWARDING = {b"forwarded", b"via"}
FORWARDING_PREFIXES = (b"x-forwarded-", b"x-envoy-")
"""Headers by which a proxy shows itself."""
CLIENT = (Path(__file__).parents[1] / "static" / "client.js").read_bytes()
CLIENT_ETAG = hashlib.sha256(CLIENT).hexdigest()[:32]


def http_routes(hub: Hub, door: Door, socket_path: str) -> Blueprint:
    """All routes that are not the socket's."""
    routes = Blueprint("http", __name__)
    routes.before_request(_refuse_other_spellings)

    @routes.get("/health/live")
    async def live() -> Response:
        return _answer({"status": "alive"})

    @routes.get("/health/ready")
    async def ready() -> Response:
        if reasons := hub.unready_reasons():
            return _answer({"status": "not ready", "reasons": reasons}, 503)
        notes = hub.notes()
        return _answer({"status": "ready", "reasons": [], **({"notes": notes} if notes else {})})

    @routes.get("/metrics")
    async def metrics() -> Response:
        refusal = _refuse_metrics(door)
        return refusal or Response(hub.metrics.render(), content_type=CONTENT_TYPE)

    @routes.get("/api/info")
    async def info() -> Response:
        return _refuse_without_key(door) or _answer({"type": messages.GET_INFO, **hub.info()})

    @routes.get("/api/info/detail")
    async def info_detail() -> Response:
        channel = request.args.get("channel")
        return _refuse_without_key(door) or _answer({"type": messages.GET_INFO_DETAIL, **hub.info_detail(channel)})

    @routes.post("/api/messages")
    async def publish() -> Response:
        if refusal := _refuse_without_key(door):
            return refusal
        if request.mimetype != JSON:
            # A page of another origin can send text without asking first, but not this.
            return _answer({"error": f"the body must be {JSON}"}, 415)
        try:
            body: bytes = await request.get_data(as_text=False)  # type: ignore[assignment]
        except RequestEntityTooLarge:
            too_large = MessageError(ErrorCode.TOO_LARGE, f"a message may have at most {hub.limits.max_payload} bytes")
            return _error(hub, too_large, "")
        return await _publish(hub, body)

    routes.add_url_rule("/client.js", view_func=_client)

    @routes.get(socket_path)
    async def not_a_socket() -> Response:
        answer = _answer({"error": "this path takes WebSocket connections only"}, 426)
        answer.headers["Upgrade"] = "websocket"
        answer.headers["Connection"] = "upgrade"
        return answer

    return routes


async def _client() -> Response:
    """The browser client: asked for anew by each page, sent when it has changed, to pages of any origin."""
    answer = Response(CLIENT, content_type="text/javascript; charset=utf-8")
    answer.headers["Cache-Control"] = "no-cache"
    answer.headers["Access-Control-Allow-Origin"] = "*"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.set_etag(CLIENT_ETAG)
    await answer.make_conditional(request)
    return answer


async def _publish(hub: Hub, body: bytes) -> Response:
    try:
        decoded = codec.decode(body.decode())
    except UnicodeDecodeError as error:
        invalid = MessageError(ErrorCode.INVALID_JSON, f"not UTF-8 at byte {error.start}")
        text = body.decode(errors="replace")
        return _error(hub, invalid, codec.shown(text), codec.ack_id_of(text))
    if isinstance(decoded, codec.Refused):
        return _error(hub, decoded.error, decoded.shown, decoded.ack_id)
    try:
        published = await hub.publish_from_outside(decoded.message)
    except MessageError as error:
        return _error(hub, error, decoded.shown, decoded.message.ack_id)
    answer = {
        "id": published.id,
        "pubsubId": published.pubsub_id,
        "duplicate": published.duplicate or None,
    }
    return _answer({key: value for key, value in answer.items() if value is not None}, 202)


def _error(hub: Hub, error: MessageError, shown: Any, ack_id: messages.Json | None = None) -> Response:
    hub.metrics.errors.labels(error.code.value).inc()
    answer = _answer(
        {
            **({} if ack_id is None else {"ackId": ack_id}),
            "type": messages.ERROR,
            "code": error.code.value,
            "value": error.value,
            "msg": shown,
            "temporary": error.code.temporary,
        },
        STATUS.get(error.code, 400),
    )
    if error.code.temporary:
        answer.headers["Retry-After"] = "1"
    return answer


def _refuse_without_key(door: Door) -> Response | None:
    status = door.check_key(request.headers.get("Authorization"))
    if status == 200:
        return None
    if status == 401:
        answer = _answer({"error": "an API key is needed: Authorization: Bearer <key>"}, 401)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer
    return _closed()


def _refuse_metrics(door: Door) -> Response | None:
    """Without a key the metrics are for what runs beside this process alone."""
    if _comes_from_beside():
        return None if door.metrics_open_to_loopback else _refuse_without_key(door)
    return _refuse_without_key(door) if door.has_keys else _closed()


def _closed() -> Response:
    return _answer({"error": "closed until CLOUD_SOCKETS_API_KEYS is set"}, 403)


async def _refuse_other_spellings() -> None:
    """Answer 404 where a path was found that is written otherwise. What has parts of its own may be escaped."""
    rule = request.url_rule
    if rule is not None and not rule.arguments and not names(request.scope, rule.rule):
        raise NotFound


def _comes_from_beside() -> bool:
    """Return whether a request begins beside this process, as a sidecar's, and was sent on by no proxy there."""
    peer = (request.scope.get("client") or ("",))[0]
    return is_loopback_address(peer) and not any(
        name.lower() in FORWARDING or name.lower().startswith(FORWARDING_PREFIXES)
        for name, _ in request.scope["headers"]
    )


def _answer(value: object, status: int = 200) -> Response:
    return Response(codec.encode_json(value), status, content_type=JSON)
