"""Publishing and asking over HTTP."""

import json

from tests.support.client import Client
from tests.support.process import ROOT, Server


async def test_what_is_posted_reaches_the_sockets() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.subscribe("news", "a")
        answer = await server.post(
            "/api/messages", b'{"type":"announce","channel":"news","payload":1e400,"own":1,"ackId":1}'
        )
        assert answer.status == 202
        text = await ann.receive_text()
        assert '"payload":1e400,' in text
        assert "ackId" not in text
        assert answer.json == {"id": json.loads(text)["id"]}


async def test_any_type_is_welcome() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.subscribe("news", "a")
        for kind in ("announce", "anything", "broadcast"):
            assert (await server.post("/api/messages", {"type": kind, "channel": "news"})).status == 202
            assert (await ann.receive())["type"] == kind


async def test_a_message_that_is_posted_twice_is_delivered_once() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.subscribe("news", "a")
        for _ in range(2):
            answer = await server.post("/api/messages", {"type": "announce", "channel": "news", "id": "order-1"})
            assert (answer.status, answer.json["id"]) == (202, "order-1")
        assert (await ann.receive())["id"] == "order-1"
        assert await ann.nothing_came()


async def test_bad_bodies_have_their_answers() -> None:
    async with Server(CLOUD_SOCKETS_MAX_PAYLOAD="1000") as server:
        cases = [
            (b"nonsense", 400, "invalid_json"),
            (b"\xff", 400, "invalid_json"),
            (b"[]", 400, "not_an_object"),
            (b"{}", 400, "missing_field"),
            (b'{"type":"a","type":"a"}', 400, "duplicate_key"),
            (b'{"type":"announce","channel":7}', 400, "invalid_field"),
            (b'{"type":"subscribe","channel":"a","subId":"b"}', 400, "unsupported_type"),
            (b'{"type":"ack","id":"a"}', 400, "unsupported_type"),
            (b'{"type":"cloud-sockets.logout","userTag":"a"}', 400, "reserved_type"),
            (b'{"type":"notification"}', 400, "missing_field"),
            (b'{"type":"notification","userTag":"away"}', 404, "user_offline"),
            (b'{"type":"announce","payload":"' + b"x" * 1000 + b'"}', 413, "too_large"),
        ]
        for body, status, code in cases:
            answer = await server.post("/api/messages", body)
            assert (answer.status, answer.json["code"]) == (status, code), body[:60]
            assert answer.json["type"] == "error"
            assert answer.json["value"]
            assert answer.json["temporary"] is False


async def test_only_json_is_taken() -> None:
    async with Server() as server:
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = await server.request("POST", "/api/messages", b'{"type":"announce"}', {"content-type": kind})
            assert answer.status == 415
        answer = await server.post(
            "/api/messages", {"type": "announce"}, content_type="application/json; charset=utf-8"
        )
        assert answer.status in (202, 415)
        preflight = await server.request("OPTIONS", "/api/messages", None, {"origin": "https://evil.example"})
        assert not any(name.startswith("access-control") for name in preflight.headers)


async def test_info_is_what_the_socket_tells() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.subscribe("news", "a")
        await ann.subscribe("sport", "a")
        info = (await server.get("/api/info")).json
        assert (info["type"], info["channelInfo"]["totalChannels"]) == ("getInfo", 2)
        detail = (await server.get("/api/info/detail")).json
        assert (detail["type"], set(detail["channelInfo"]["channels"])) == ("getInfoDetail", {"news", "sport"})
        one = (await server.get("/api/info/detail?channel=news")).json
        assert set(one["channelInfo"]["channels"]) == {"news"}


async def test_metrics_are_prometheus_text() -> None:
    async with Server() as server, Client(server.url) as ann:
        await ann.subscribe("news", "a")
        answer = await server.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert await server.metric("connections") == 1
        assert await server.metric("subscriptions") == 1
        assert await server.metric("messages_received_total") == 1


async def test_the_browser_client_is_served_to_pages_of_any_origin_and_again_only_when_it_changed() -> None:
    async with Server() as server:
        answer = await server.get("/client.js")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.body == (ROOT / "app/static/client.js").read_bytes()
        again = await server.get("/client.js", if_none_match=answer.headers["etag"])
        assert (again.status, again.body) == (304, b"")
