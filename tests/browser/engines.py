"""Real browsers, each driven by what it has of its own: all of them run a script in a page."""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.async_api import Browser, async_playwright
from websockets.asyncio.client import ClientConnection, connect

from tests.support.deadline import soon
from tests.support.process import free_port

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FIREFOX = ("firefox-esr", "firefox")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
WEBKIT = Path(__file__).with_name("webkit_page.py")
SYSTEM_PYTHON = "/usr/bin/python3"
"""The Python that Debian's packages are for."""
PATIENCE = 90.0
"""Seconds that a script may take, unless it is said otherwise."""


class Engine(Protocol):
    """One page in a browser."""

    async def run(self, url: str, script: str, seconds: float = PATIENCE) -> Any:
        """Open the page, run this async function's body in it, and answer what it returns, if it does so in time."""


def absent(what: str, *, needed: bool) -> None:
    """Skip the test of a browser that this machine lacks; where CI has to have it, fail."""
    if needed and os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The Chromium of this machine, by Playwright."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        absent(f"no browser: none of {', '.join(CHROMIUM)} is installed", needed=True)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        await browser.close()


class _Chromium:
    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    async def run(self, url: str, script: str, seconds: float = PATIENCE) -> Any:
        page = await self._browser.new_page()
        await page.goto(url)
        return await soon(page.evaluate(f"async () => {{{script}}}"), seconds)


class _Firefox:
    """A Firefox, by WebDriver BiDi."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def command(self, method: str, seconds: float = PATIENCE, **params: Any) -> Any:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(await soon(self._socket.recv(), seconds))
            if message.get("id") == number:
                assert message["type"] == "success", message
                return message["result"]

    async def run(self, url: str, script: str, seconds: float = PATIENCE) -> Any:
        context = (await self.command("browsingContext.create", type="tab"))["context"]
        await self.command("browsingContext.navigate", context=context, url=url, wait="complete")
        result = await self.command(
            "script.callFunction",
            seconds,
            functionDeclaration=f"async () => JSON.stringify(await (async () => {{{script}}})())",
            awaitPromise=True,
            target={"context": context},
        )
        assert result["type"] == "success", result
        return json.loads(result["result"]["value"])


@asynccontextmanager
async def _firefox(folder: Path) -> AsyncIterator[Engine]:
    program = next(filter(None, map(shutil.which, FIREFOX)), None)
    if program is None:
        absent("no Firefox is installed here", needed=False)
    assert program is not None
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program, "--headless", "--no-remote", "--profile", str(folder), "--remote-debugging-port", str(port),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        while b"WebDriver BiDi listening" not in (line := await soon(process.stderr.readline(), 60)):
            assert line, "Firefox ended"
        reading = asyncio.create_task(process.stderr.read())  # so that it never waits for us
        async with connect(f"ws://127.0.0.1:{port}/session", max_size=None) as socket:
            firefox = _Firefox(socket)
            await firefox.command("session.new", capabilities={})
            yield firefox
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    await reading


class _WebKit:
    """A WebKitGTK view in a process of its own."""

    def __init__(self, display: str) -> None:
        self._display = display

    async def run(self, url: str, script: str, seconds: float = PATIENCE) -> Any:
        environment = {**os.environ, "DISPLAY": self._display, "WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS": "1"}
        process = await asyncio.create_subprocess_exec(
            SYSTEM_PYTHON, str(WEBKIT), url, script,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
        try:
            output, errors = await soon(process.communicate(), seconds)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == 0, errors.decode()
        return json.loads(output)


@asynccontextmanager
async def _webkit() -> AsyncIterator[Engine]:
    if shutil.which("Xvfb") is None:
        absent("no Xvfb is installed here, which WebKitGTK needs for its window", needed=False)
    asking = await asyncio.create_subprocess_exec(
        SYSTEM_PYTHON, "-c", "import gi; gi.require_version('WebKit2', '4.1')", stderr=asyncio.subprocess.DEVNULL
    )
    if await asking.wait() != 0:
        absent("no WebKitGTK (gir1.2-webkit2-4.1 and python3-gi) is installed here", needed=False)
    reading, writing = os.pipe()
    display = await asyncio.create_subprocess_exec(
        "Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24",
        pass_fds=(writing,), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    try:
        number = await soon(asyncio.to_thread(os.read, reading, 16), 30)
        yield _WebKit(f":{number.decode().strip()}")
    finally:
        os.close(reading)
        display.kill()
        await display.wait()


@asynccontextmanager
async def engine(name: str, folder: Path) -> AsyncIterator[Engine]:
    """A browser by its name: `chromium`, `firefox` or `webkit`. `folder` is for what it keeps."""
    if sys.platform != "linux" and name != "chromium":
        pytest.skip(f"{name} is driven on Linux only")
    if name == "chromium":
        async with chromium() as browser:
            yield _Chromium(browser)
    elif name == "firefox":
        async with _firefox(folder) as firefox:
            yield firefox
    else:
        async with _webkit() as webkit:
            yield webkit
