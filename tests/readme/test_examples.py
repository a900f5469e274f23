"""The README's examples, run as they stand there: only ports and names of topics differ."""

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.client import Client
from tests.support.cluster import PROJECT, cluster
from tests.support.deadline import soon, until
from tests.support.process import ROOT, Server
from tests.support.readme import block


async def bash(script: str, **variables: str) -> str:
    """What a script prints; it has to succeed."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-ec", script, stdout=PIPE, stderr=PIPE, cwd=ROOT, env={**os.environ, **variables}
    )
    output, errors = await soon(process.communicate(), 60)
    assert process.returncode == 0, errors.decode()
    return output.decode()


@asynccontextmanager
async def python(code: str, **variables: str) -> AsyncIterator[Process]:
    """A program that runs until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", code, stdout=PIPE, env={**os.environ, **variables}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await soon(process.wait())


async def line(process: Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return (await soon(process.stdout.readline())).decode().rstrip("\n")


def at(server: Server, text: str, port: int = 8080) -> str:
    """An example of the README, at this server."""
    assert f"localhost:{port}" in text
    return text.replace(f"localhost:{port}", f"localhost:{server.port}")


async def is_ready(server: Server) -> bool:
    """Whether a server that another program started is ready."""
    try:
        return (await server.get("/health/ready")).status == 200
    except OSError:
        return False


async def test_the_first_screen() -> None:
    async with Server() as server, python(at(server, block("Try it", "python"))) as client:
        assert await line(client) == "Welcome to the cloud-sockets WebSocket"
        reply = json.loads(await line(client))
        assert (reply["type"], reply["channel"], reply["subId"]) == ("ack", "news", "today")
        answer = await bash(at(server, block("Try it", "sh", 2)))
        assert "202" in answer.splitlines()[0]
        message = json.loads(await line(client))
        assert (message["type"], message["payload"]) == ("announce", {"hello": "world"})
        assert json.loads(answer.splitlines()[-1]) == {"id": message["id"]}


async def test_the_python_client() -> None:
    async with Server() as server, Client(server.url) as other:
        await other.subscribe("weather")
        async with python(at(server, block("Clients", "python")), PYTHONPATH=str(ROOT)) as client:
            assert (await other.receive())["payload"] == {"sun": True}  # so it has subscribed
            await other.send({"type": "announce", "channel": "news", "payload": "hello"})
            assert await line(client) == "hello"


async def test_handles_of_the_python_client() -> None:
    async with Server() as server, Client(server.url) as other:
        async with python(at(server, block("Clients", "python", 1)), PYTHONPATH=str(ROOT)) as client:

            async def both_are_there() -> bool:
                info = (await server.get("/api/info")).json
                return bool(info["channelInfo"]["totalSubscriptions"] == 2)

            await until(both_are_there)
            for sub_id, payload in (("weather", "rain"), ("sport", "1:0"), ("else", "nothing"), (None, "to all")):
                place = {"channel": "news"} if sub_id is None else {"channel": "news", "subId": sub_id}
                await other.ask({"type": "announce", **place, "payload": payload})
            lines = {await line(client) for _ in range(4)}
            assert lines == {"weather rain", "score 1:0", "score to all", "weather to all"}


async def test_make_run_serves() -> None:
    assert block("Try it", "sh") == "make run\n"
    server = Server()
    # In the environment that these tests run in, which the Makefile made with this interpreter.
    interpreter = Path(sys.prefix, "python.stamp").read_text().split()[0]
    process = await asyncio.create_subprocess_exec(
        *("make", "run", f"VENV={sys.prefix}", f"PYTHON={interpreter}"),
        cwd=ROOT,
        env={**os.environ, "PORT": str(server.port)},
    )
    try:
        await until(partial(is_ready, server), 60)
    finally:
        process.terminate()
        await soon(process.wait())


async def test_two_instances_on_the_emulator(emulator_address: str, topic: str) -> None:
    assert block("Many instances: the Pub/Sub emulator", "sh") == "make emulator\n"
    for number, port in ((1, 8080), (2, 8081)):
        export, run = block("Many instances: the Pub/Sub emulator", "sh", number).splitlines()
        assert run == f"PORT={port} make run"
        given = dict(word.split("=") for word in export.removeprefix("export ").split())
        assert given == {
            "PUBSUB_EMULATOR_HOST": "localhost:8085",
            "GOOGLE_CLOUD_PROJECT": PROJECT,
            "CLOUD_SOCKETS_PUBSUB_TOPIC_NAME": "hub",
        }
    async with cluster(emulator_address, topic, 2) as (_, (one, two)), Client(one.url) as client:
        await client.subscribe("news")
        await bash(at(two, block("Many instances: the Pub/Sub emulator", "sh", 3), 8081))
        assert (await client.receive())["payload"] == "from next door"


async def test_publishing_from_another_service(emulator_address: str, topic: str) -> None:
    async with cluster(emulator_address, topic, 1) as (_, (server,)), Client(server.url) as client:
        await client.subscribe("news")
        code = block("Publish from other services", "python").replace('"hub"', f'"{topic}"')
        async with python(code, PUBSUB_EMULATOR_HOST=emulator_address) as publisher:
            assert await soon(publisher.wait()) == 0
        message = await client.receive()
        assert (message["type"], message["payload"]) == ("announce", {"n": 2})


async def test_publishing_with_gcloud(emulator_address: str, topic: str) -> None:
    if shutil.which("gcloud") is None:
        pytest.skip("gcloud is not installed")
    async with cluster(emulator_address, topic, 1) as (_, (server,)), Client(server.url) as client:
        await client.subscribe("news")
        await bash(
            block("Publish from other services", "sh").replace("publish hub", f"publish {topic}"),
            CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB=f"http://{emulator_address}/",
            CLOUDSDK_AUTH_DISABLE_CREDENTIALS="true",
        )
        message = await client.receive()
        assert (message["type"], message["payload"], message["id"]) == ("announce", {"n": 1}, message["pubsubId"])


async def test_a_message_handler(tmp_path: Path) -> None:
    (tmp_path / "todos.py").write_text(block("Message handlers", "python"))
    async with (
        Server(PYTHONPATH=f"{ROOT}:{tmp_path}", CLOUD_SOCKETS_CUSTOM_MSG_HANDLERS="todos:handlers") as server,
        Client(server.url) as ann,
        Client(server.url) as bob,
    ):
        await bob.subscribe("list")
        reply = await ann.ask({"type": "addTodo", "channel": "list", "payload": "milk"})
        assert reply["type"] == "ack"
        message = await bob.receive()
        assert (message["type"], message["payload"]) == ("todoAdded", {"text": "milk", "by": None})


async def test_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "the same in both")
    names: dict[str, object] = {"__name__": "login"}
    exec(compile(block("Users", "python"), "login.py", "exec"), names)
    browser = names["app"].test_client()  # type: ignore[attr-defined]
    assert browser.post("/login", data={"name": "ann", "password": "wrong"}).status_code == 401
    answer = browser.post("/login", data={"name": "ann", "password": "secret"})
    cookie = answer.headers["Set-Cookie"].partition(";")[0]
    async with Server(CLOUD_SOCKETS_AUTH="session", SECRET_KEY="the same in both") as server:
        async with Client(server.url, additional_headers={"Cookie": cookie}) as ann:
            assert ann.welcome["message"] == "Welcome ann to the cloud-sockets WebSocket"


async def test_in_your_own_app_run_by_another_server(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(block("In your own Quart app", "python"))
    server = Server()
    hypercorn = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{server.port}", "shop:app"),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    try:
        await until(partial(is_ready, server))
        async with Client(server.url) as client:
            await client.subscribe("orders")
            order = f"curl -sS -H 'Content-Type: application/json' -d '[1]' http://localhost:{server.port}/orders"
            answer = json.loads(await bash(order))
            message = await client.receive()
            assert (message["type"], message["payload"], message["id"]) == ("announce", [1], answer["id"])
    finally:
        hypercorn.kill()
        await soon(hypercorn.wait())


def test_the_provider_is_the_one_that_the_tests_use() -> None:
    example = block("Another fan-out", "python")
    assert example in (ROOT / "tests/support/relay.py").read_text()
    code = [text for text in example.splitlines() if text.strip()]
    assert len(code) <= 30
