"""A page in a real browser, which offers compression and tells where it comes from."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, expect

from tests.support.client import Client
from tests.support.deadline import soon, until
from tests.support.process import Server, free_port
from tests.support.readme import README, block

OPENS = """url => new Promise(resolve => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve(true);
    socket.onerror = () => resolve(false);
})"""
"""Script that tells whether a page may open a socket."""


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[str]:
    """Serve a folder as the README says; gives its address."""
    port = free_port()
    command = block("Try it", "sh", 1)
    assert command.startswith("python3 -m http.server --bind 127.0.0.1 8000")
    command = command.replace("python3", sys.executable).replace("8000", str(port), 1)
    program = await asyncio.create_subprocess_shell(f"exec {command}", cwd=folder, stderr=asyncio.subprocess.DEVNULL)
    try:
        await until(lambda: _listens(port))
        yield f"http://localhost:{port}"
    finally:
        program.terminate()
        await soon(program.wait())


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_the_readmes_page(browser: Browser, tmp_path: Path) -> None:
    async with Server() as server, served(tmp_path) as address:
        html = block("Try it", "html").replace("localhost:8080", f"localhost:{server.port}")
        (tmp_path / "page.html").write_text(html)
        page = await browser.new_page()
        await page.goto(f"{address}/page.html")
        log = page.locator("#log")
        await expect(log).to_contain_text('"type":"ack"')
        async with Client(server.url) as publisher:
            await publisher.send({"type": "announce", "channel": "news", "payload": "x" * 2000 + "é😀"})
        await expect(log).to_contain_text('"type":"announce"')
        lines = [json.loads(line) for line in (await log.inner_text()).splitlines()]
        assert [line["type"] for line in lines] == ["welcome", "ack", "announce"]
        assert lines[2]["payload"] == "x" * 2000 + "é😀"


async def test_a_page_from_the_disk_gets_in_where_the_readmes_word_lists_it(browser: Browser, tmp_path: Path) -> None:
    assert "`CLOUD_SOCKETS_ALLOWED_ORIGINS=null,file://`" in README.read_text()
    (tmp_path / "page.html").write_text(block("Try it", "html"))
    for variables, opens in (({}, False), ({"CLOUD_SOCKETS_ALLOWED_ORIGINS": "null,file://"}, True)):
        async with Server(**variables) as server:
            page = await browser.new_page()
            await page.goto(f"file://{tmp_path}/page.html")
            assert await page.evaluate(OPENS, server.url) is opens


async def test_a_page_of_another_site_is_refused(browser: Browser) -> None:
    async with Server(CLOUD_SOCKETS_ALLOWED_ORIGINS="https://app.example.com") as server:
        page = await browser.new_page()
        await page.goto(f"http://localhost:{server.port}/health/live")  # any page of this host
        assert await page.evaluate(OPENS, server.url) is False
        assert await server.metric('connections_refused_total{reason="origin"}') == 1


async def test_a_page_without_a_user_is_told_so(browser: Browser) -> None:
    async with Server(
        CLOUD_SOCKETS_AUTH="session", CLOUD_SOCKETS_SESSION_PARSER="tests.support.sessions:from_header_async"
    ) as server:
        page = await browser.new_page()
        await page.goto(f"http://127.0.0.1:{server.port}/health/live")
        told, code, reason = await page.evaluate(
            """url => new Promise(resolve => {
                const socket = new WebSocket(url);
                const told = [];
                socket.onmessage = ({data}) => told.push(JSON.parse(data));
                socket.onclose = ({code, reason}) => resolve([told, code, reason]);
            })""",
            server.url,
        )
        assert (code, reason) == (3500, "a session with a user is needed")
        assert [(message["type"], message["code"], message["reconnect"]) for message in told] == [
            ("disconnect", 3500, False)
        ]
        assert await server.metric("connections_opened_total") == 0


async def test_a_page_is_told_to_come_back_when_the_instance_stops(browser: Browser) -> None:
    async with Server() as server:
        page = await browser.new_page()
        await page.goto(f"http://localhost:{server.port}/health/live")
        await page.evaluate(
            """url => new Promise(resolve => {
                window.messages = [];
                window.socket = new WebSocket(url);
                window.ended = new Promise(done => { window.socket.onclose = event => done(event.code); });
                window.socket.onmessage = event => { window.messages.push(JSON.parse(event.data)); resolve(); };
            })""",
            server.url,
        )
        server.terminate()
        assert await page.evaluate("() => window.ended") == 3001
        last = (await page.evaluate("() => window.messages"))[-1]
        assert (last["type"], last["reconnect"]) == ("disconnect", True)
        assert await server.wait() == 0


async def test_a_page_imports_the_client_subscribes_and_receives(browser: Browser) -> None:
    async with Server() as server:
        page = await browser.new_page()
        await page.goto(f"http://localhost:{server.port}/health/live")  # any page of this host
        await page.evaluate(
            """async url => {
                const {Client} = await import("/client.js");
                window.seen = [];
                const client = new Client(url, {firstWait: 50});
                client.addEventListener("message", ({message}) => window.seen.push(message.payload));
                client.addEventListener("gap", ({channel}) => window.seen.push(`gap ${channel}`));
                await client.connect();
                await client.subscribe("news", "today");
            }""",
            f"ws://localhost:{server.port}/ws",
        )
        async with Client(server.url) as publisher:
            await publisher.send({"type": "announce", "channel": "news", "payload": "x" * 2000 + "é😀"})
        await page.wait_for_function("() => window.seen.length === 1")
        assert await page.evaluate("() => window.seen[0]") == "x" * 2000 + "é😀"
        server.terminate()
        assert await server.wait() == 0
        await server.start()  # embedded, another process: nothing is proven
        await page.wait_for_function("() => window.seen.includes('gap news')")


async def test_the_readmes_page_with_the_client(browser: Browser, tmp_path: Path) -> None:
    async with Server() as server, served(tmp_path) as address:
        html = block("Clients", "html").replace("localhost:8080", f"localhost:{server.port}")
        (tmp_path / "page.html").write_text(html)
        page = await browser.new_page()
        await page.goto(f"{address}/page.html")
        await expect(page.locator("#log")).to_contain_text("subscribed")
        async with Client(server.url) as publisher:
            await publisher.send({"type": "announce", "channel": "news", "payload": {"n": 1}})
        await expect(page.locator("#log")).to_contain_text('{"n":1}')


async def test_page_that_offers_subprotocols_is_told_which_is_spoken(browser: Browser, tmp_path: Path) -> None:
    """A browser fails a socket for which it offered some and none was chosen."""
    chosen = """([url, offered]) => new Promise(resolve => {
        const socket = new WebSocket(url, offered);
        socket.onopen = () => resolve(socket.protocol);
        socket.onerror = () => resolve(null);
    })"""
    (tmp_path / "page.html").write_text("")
    async with Server() as server, served(tmp_path) as address:
        page = await browser.new_page()
        await page.goto(f"{address}/page.html")
        url = f"ws://localhost:{server.port}/ws"
        for offered, spoken in (
            (["json"], "json"),
            (["json", "cloud-sockets"], "cloud-sockets"),
            (["bearer.abc.def", "cloud-sockets"], "cloud-sockets"),
            ([], ""),
        ):
            assert await page.evaluate(chosen, [url, offered]) == spoken


async def test_the_readmes_page_with_handles(browser: Browser, tmp_path: Path) -> None:
    async with Server() as server, served(tmp_path) as address:
        html = block("Clients", "html", 1).replace("localhost:8080", f"localhost:{server.port}")
        (tmp_path / "page.html").write_text(html)
        page = await browser.new_page()
        await page.goto(f"{address}/page.html")
        log = page.locator("#log")
        await expect(log).to_contain_text("subscribed")
        async with Client(server.url) as publisher:
            for sub_id, payload in (("weather", "sun"), ("sport", 1), (None, "all")):
                message = {"type": "announce", "channel": "news", "subId": sub_id, "payload": payload}
                await publisher.send({key: value for key, value in message.items() if value is not None})
        await expect(log).to_contain_text("score all")
        lines = sorted((await log.inner_text()).split("\n"))
        assert [line for line in lines if line] == sorted(
            ["subscribed", "weather sun", "score 1", "weather all", "score all"]
        )
