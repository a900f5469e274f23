"""Who comes in: origins, keys, room."""

import json

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.client import Client
from tests.support.deadline import until
from tests.support.process import Server

CLOUD_RUN = {"K_SERVICE": "hub", "CLOUD_SOCKETS_AUTH": "anonymous"}


async def status(server: Server, origin: str | None, **headers: str) -> int:
    """101, or what the upgrade was refused with."""
    try:
        async with Client(server.url, origin=origin, additional_headers=headers):
            return 101
    except InvalidStatus as refused:
        answer = refused.response
    assert "error" in json.loads(answer.body)
    return answer.status_code


async def test_on_a_laptop_pages_of_this_machine_may_open_a_socket() -> None:
    async with Server() as server:
        allowed = [
            None,
            f"http://127.0.0.1:{server.port}",
            "http://localhost:3000",
            "http://127.0.0.1",
            "https://[::1]",
        ]
        assert [await status(server, origin) for origin in allowed] == [101] * 5
        refused = ("https://evil.example", "http://10.0.0.1", "null", "file://")
        assert [await status(server, origin) for origin in refused] == [403] * 4
        assert await server.metric('connections_refused_total{reason="origin"}') == 4


async def test_pages_from_the_disk_may_where_they_are_listed() -> None:
    async with Server(CLOUD_SOCKETS_ALLOWED_ORIGINS="null,file://") as server:
        assert [await status(server, origin) for origin in ("null", "file://", "http://localhost")] == [101, 101, 403]


@pytest.mark.usefixtures("both_ways")
async def test_the_scheme_in_front_is_part_of_the_origin() -> None:
    async with Server(**CLOUD_RUN) as server:
        here = f"127.0.0.1:{server.port}"
        for forwarded, secure, plain in (("https", 101, 403), ("https,http", 101, 403), ("http", 403, 101)):
            proto = {"X-Forwarded-Proto": forwarded}
            assert await status(server, f"https://{here}", **proto) == secure
            assert await status(server, f"http://{here}", **proto) == plain
        await server.logged(
            f"the origin 'http://{here}' is not 'https://{here}', as X-Forwarded-Proto and Host say; "
            f"CLOUD_SOCKETS_ALLOWED_ORIGINS with http://{here} would let it in"
        )
        assert [await status(server, f"{scheme}://{here}") for scheme in ("http", "https")] == [101, 101]


async def test_wildcards_names_in_any_alphabet_and_default_ports_mean_what_they_say() -> None:
    listed = "https://*.example.com,https://app.test:*,https://b\u00fccher.test,https://plain.test:443"
    async with Server(CLOUD_SOCKETS_ALLOWED_ORIGINS=listed) as server:
        allowed = [
            "https://a.example.com", "https://a.b.example.com", "https://app.test", "https://app.test:8443",
            "https://xn--bcher-kva.test", "https://plain.test",
        ]  # fmt: skip
        assert [await status(server, origin) for origin in allowed] == [101] * len(allowed)
        refused = ["https://example.com", "http://a.example.com", "https://a.app.test", "https://bucher.test", "null"]
        assert [await status(server, origin) for origin in refused] == [403] * len(refused)
        await server.logged("CLOUD_SOCKETS_ALLOWED_ORIGINS (https://*.example.com, https://app.test:*")


@pytest.mark.parametrize(
    "entry", ["https://app.*.com", "https://a.test:99999", "wss://a.test", "file:///home/page.html", "https://a.test/"]
)
async def test_an_origin_that_no_page_could_have_ends_the_process(entry: str) -> None:
    server = Server(CLOUD_SOCKETS_ALLOWED_ORIGINS=f"https://app.example.com,{entry}")
    await server.start()
    assert await server.wait() == 2
    assert "CLOUD_SOCKETS_ALLOWED_ORIGINS is " in server.log
    assert f"{entry!r} is none: " in server.log


async def test_on_cloud_run_only_pages_of_the_same_host_may() -> None:
    async with Server(**CLOUD_RUN) as server:
        assert [await status(server, origin) for origin in (None, f"http://127.0.0.1:{server.port}")] == [101, 101]
        origins = ("http://localhost:3000", "null", "https://evil.example")
        assert [await status(server, origin) for origin in origins] == [403, 403, 403]


async def test_with_sessions_a_laptop_is_as_strict() -> None:
    async with Server(
        CLOUD_SOCKETS_AUTH="session", CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:from_header_async"
    ) as server:
        user = {"X-User": "ann"}
        assert await status(server, None, **user) == 101
        assert await status(server, "http://localhost:3000", **user) == 403


async def test_a_list_of_origins_replaces_the_default() -> None:
    async with Server(CLOUD_SOCKETS_ALLOWED_ORIGINS="https://app.example.com") as server:
        assert [await status(server, origin) for origin in (None, "https://app.example.com")] == [101, 101]
        assert [await status(server, origin) for origin in ("http://localhost", "https://app.example.com:8443")] == [
            403,
            403,
        ]


HTTP = [("GET", "/metrics"), ("GET", "/api/info"), ("GET", "/api/info/detail"), ("POST", "/api/messages")]


async def statuses(server: Server, **headers: str) -> list[int]:
    body = {"GET": None, "POST": b'{"type":"announce"}'}
    sent = {"content_type": "application/json", **headers}
    return [(await server.request(method, path, body[method], sent)).status for method, path in HTTP]


async def test_on_a_laptop_http_is_open() -> None:
    async with Server() as server:
        assert await statuses(server) == [200, 200, 200, 202]


async def test_on_cloud_run_http_is_closed_without_keys_but_for_a_sidecar() -> None:
    async with Server(**CLOUD_RUN) as server:
        assert await statuses(server) == [200, 403, 403, 403]
        assert await statuses(server, authorization="Bearer anything") == [200, 403, 403, 403]
        assert (await server.get("/health/live")).status == 200


@pytest.mark.parametrize(("where", "metrics"), [({}, 401), (CLOUD_RUN, 200)], ids=["laptop", "cloud-run"])
async def test_with_keys_one_of_them_is_needed_but_by_a_sidecar(where: dict[str, str], metrics: int) -> None:
    async with Server(**where, CLOUD_SOCKETS_API_KEYS="first,second") as server:
        assert await statuses(server) == [metrics, 401, 401, 401]
        assert await statuses(server, authorization="Bearer third") == [metrics, 401, 401, 401]
        assert await statuses(server, authorization="Basic first") == [metrics, 401, 401, 401]
        assert await statuses(server, authorization="Bearer second") == [200, 200, 200, 202]
        assert (await server.get("/api/info")).headers["www-authenticate"] == "Bearer"
        assert (await server.get("/health/ready")).status == 200


async def test_over_the_number_of_connections_an_upgrade_is_refused_until_there_is_room() -> None:
    async with Server(CLOUD_SOCKETS_MAX_CONNECTIONS="2") as server, Client(server.url):
        async with Client(server.url):
            with pytest.raises(InvalidStatus) as refused:
                async with Client(server.url):
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"]
            assert (await server.get("/health/live")).status == 200

        async def there_is_room() -> bool:
            return await status(server, None) == 101

        await until(there_is_room)  # the end of the second is noticed a moment later


async def test_health_is_open_and_tells_why() -> None:
    async with Server() as server:
        assert (await server.get("/health/live")).json == {"status": "alive"}
        ready = await server.get("/health/ready")
        assert (ready.status, ready.json) == (200, {"status": "ready", "reasons": []})


async def test_the_socket_is_where_the_settings_say() -> None:
    async with Server(CLOUD_SOCKETS_PATH="/live/sockets") as server:
        async with Client(f"ws://127.0.0.1:{server.port}/live/sockets") as ann:
            assert ann.welcome["type"] == "welcome"
        with pytest.raises(InvalidStatus) as refused:
            async with Client(server.url):
                pass
        assert refused.value.response.status_code == 404


async def test_a_plain_request_to_the_socket_is_told_to_upgrade() -> None:
    async with Server() as server:
        answer = await server.get("/ws")
        assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
        assert (await server.get("/nowhere")).status == 404
        assert (await server.get("/api/messages")).status == 405


@pytest.mark.parametrize(("offered", "expected"), [("true", 1), ("false", 0)])
async def test_compression_is_agreed_on_where_it_is_offered(offered: str, expected: int) -> None:
    async with Server(CLOUD_SOCKETS_PER_MESSAGE_DEFLATE=offered) as server:
        async with Client(server.url, compression="deflate") as ann, Client(server.url) as bob:
            assert len(ann.socket.protocol.extensions) == expected
            assert len(bob.socket.protocol.extensions) == 0
            await bob.send({"type": "broadcast", "payload": "é" * 5000})
            assert (await ann.receive())["payload"] == (await bob.receive())["payload"] == "é" * 5000
