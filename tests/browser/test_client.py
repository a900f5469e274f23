"""The browser client in real browsers, where a page has ways of its own to lose a socket or to be refused one."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser.dead_link import dead_link
from tests.browser.engines import engine
from tests.browser.site import site
from tests.support.client import Client
from tests.support.process import Server, free_port

KEPT = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": "announce,broadcast"}
SESSION = {"CLOUD_SOCKETS_AUTH": "session", "SECRET_KEY": "a secret of this test"}
ENGINES = ("chromium", "firefox", "webkit")

OPEN = """
    const {Client} = await import("/client.js");
    const told = {states: [], refused: [], messages: []};
    const client = new Client(%s, %s);
    client.addEventListener("state", ({state}) => told.states.push(state));
    client.addEventListener("refused", ({error}) => {
        const {name, message, code, status, temporary} = error;
        told.refused.push({name, message, code, status, temporary, at: performance.now()});
    });
    client.addEventListener("message", ({message}) => told.messages.push(message.payload));
    const began = performance.now();
    const until = async (holds) => { while (!holds()) await new Promise((done) => setTimeout(done, 10)); };
"""


def opening(url: str, **options: Any) -> str:
    """A script that makes a client and notes what it tells."""
    return OPEN % (json.dumps(url), json.dumps(options))


@pytest.mark.parametrize("name", ENGINES)
async def test_a_page_without_a_user_is_told_within_a_second(name: str, tmp_path: Path) -> None:
    async with (
        site() as page,
        Server(**SESSION, CLOUD_SOCKETS_ALLOWED_ORIGINS=page.rstrip("/")) as server,
        engine(name, tmp_path) as browser,
    ):
        script = (
            opening(server.url)
            + """
            const ended = await client.connect().catch((error) => error);
            return {...told, code: ended.code, took: performance.now() - began};
        """
        )
        told = await browser.run(page, script)
    assert [(each["name"], each["code"], each["temporary"]) for each in told["refused"]] == [
        ("ConnectError", 3500, False)
    ]
    assert told["code"] == 3500
    assert told["states"][-1] == "closed"
    assert told["took"] < 1000


@pytest.mark.parametrize("name", ENGINES)
async def test_what_the_pages_policy_blocks_is_told_and_tried_slowly(name: str, tmp_path: Path) -> None:
    async with Server() as server, site("connect-src 'self'") as page, engine(name, tmp_path) as browser:
        script = (
            opening(f"ws://127.0.0.1:{server.port}/ws", firstWait=50, longestWait=300)
            + """
            client.connect().catch(() => {});
            await until(() => told.refused.length === 3);
            const {state} = client;
            client.close();
            return {...told, state, first: told.refused[0].at - began};
        """
        )
        told = await browser.run(page, script)
    for refused in told["refused"]:
        assert "connect-src" in refused["message"]
        assert f"ws://127.0.0.1:{server.port}" in refused["message"]
        assert "blocks it" in refused["message"]
        assert refused["temporary"] is True
    assert told["state"] != "closed"
    assert told["first"] < 1000


@pytest.mark.parametrize("name", ENGINES)
async def test_a_page_is_told_that_nobody_is_there(name: str, tmp_path: Path) -> None:
    server = Server()
    async with site() as page, engine(name, tmp_path) as browser:
        script = (
            opening(server.url, firstWait=50, longestWait=200)
            + """
            client.connect().catch(() => {});
            await until(() => told.refused.length > 0);
            return {...told, state: client.state, first: told.refused[0].at - began};
        """
        )
        told = await browser.run(page, script)
    assert "a page is not told why" in told["refused"][0]["message"]
    assert told["refused"][0]["temporary"] is True
    assert told["first"] < 3000  # WebKit and Firefox ask a while themselves


async def test_a_browser_that_holds_sockets_back_is_waited_for(tmp_path: Path) -> None:
    """After failures Firefox lets a socket wait for longer and longer: each is one try, however long that takes."""
    port = free_port()
    async with site() as page, engine("firefox", tmp_path) as browser:
        # Tries in a row without waits of our own: the last of them is held back for 5 s and more.
        script = (
            opening(f"ws://127.0.0.1:{port}/ws", firstWait=0, requestTimeout=2000)
            + """
            client.connect().catch(() => {});
            let most = 0;
            await until(() => {
                most = Math.max(...told.refused.map(({at}, index) => at - (told.refused[index - 1]?.at ?? began)));
                return most > 3000;
            });
            client.close();
            return told;
        """
        )
        told = await browser.run(page, script)
    assert all("a page is not told why" in each["message"] for each in told["refused"])


async def _opened(browser: Browser, server: Server, url: str, **options: Any) -> Page:
    page = await browser.new_page()
    await page.goto(f"http://127.0.0.1:{server.port}/health/live")
    script = (
        opening(url, **options)
        + """
        await client.connect();
        await client.subscribe("news", "1");
        Object.assign(window, {client, told});
    """
    )
    await page.evaluate(f"async () => {{{script}}}")
    return page


async def _missed(page: Page, server: Server) -> float:
    """Publish what the dead socket does not bring; answers the time now."""
    async with Client(server.url) as publisher:
        await publisher.send({"type": "announce", "channel": "news", "payload": "missed", "ackId": 1})
        while (await publisher.receive()).get("ackId") != 1:
            pass
    assert await page.evaluate("() => told.messages") == []
    return time.monotonic()


@pytest.mark.parametrize(
    ("target", "kind"),
    [("window", "online"), ("window", "pageshow"), ("document", "visibilitychange"), ("document", "resume")],
)
async def test_a_page_that_wakes_up_finds_its_dead_socket(browser: Browser, target: str, kind: str) -> None:
    async with Server(**KEPT) as server, dead_link(server.port) as link:
        page = await _opened(browser, server, f"ws://127.0.0.1:{link.port}/ws")
        link.die()
        began = await _missed(page, server)
        await page.evaluate(f"() => {target}.dispatchEvent(new Event('{kind}'))")
        await page.wait_for_function("() => told.messages.length > 0")
        assert time.monotonic() - began < 3
        assert await page.evaluate("() => told.messages") == ["missed"]


async def test_a_page_that_goes_offline_says_so_at_once_and_comes_back(browser: Browser) -> None:
    async with Server(**KEPT) as server, dead_link(server.port) as link:
        page = await _opened(browser, server, f"ws://127.0.0.1:{link.port}/ws")
        link.die()
        await page.context.set_offline(True)
        await page.wait_for_function("() => told.states.at(-1) === 'waiting' || told.states.includes('waiting')")
        began = await _missed(page, server)
        await page.context.set_offline(False)
        await page.wait_for_function("() => told.messages.length > 0")
        assert time.monotonic() - began < 3
