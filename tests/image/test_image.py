"""The image: built by `make image`, run as Cloud Run would run it, tried from outside, and stopped.

`make image-test` runs these, with the Docker engine that is there or one that it makes. IMAGE_NETWORK is the network in
which the container finds the emulator on the loopback address, as these tests do.
"""

import asyncio
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.smoke import smoke
from tests.support.client import Client
from tests.support.cluster import PROJECT, Topic
from tests.support.deadline import soon, until
from tests.support.process import ROOT, Server, free_port

pytestmark = [pytest.mark.image, pytest.mark.timeout(600)]

MEGABYTE = 10**6
USER = "65532:65532"
SOCKETS = 20
READY = 1.5
"""Seconds of CPU until it is ready."""
GRACE = 9.0
"""Seconds: Cloud Run kills after 10."""


def docker(*arguments: str, **options: Any) -> str:
    """Run docker; answers what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
    return str(done.stdout).strip()


def inspect(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", name))[0]
    return found


@pytest.fixture(scope="module")
def image() -> str:
    """What `make image` builds."""
    name = os.environ.get("IMAGE", "cloud-sockets")
    done = subprocess.run(["make", "image", f"IMAGE={name}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return name


@pytest.fixture(scope="module")
def base() -> str:
    """The base of the image: the one that the Dockerfile names, or the one that stands in for it."""
    name = (
        os.environ.get("BASE", "")
        or re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
    )
    if subprocess.run(["docker", "image", "inspect", name], capture_output=True, check=False).returncode != 0:
        docker("pull", "--quiet", name)  # the builder keeps its bases for itself
    return name


@pytest.fixture(scope="module")
def handlers_image(image: str) -> str:
    """What the example in docs/ makes of it."""
    name = "cloud-sockets-handlers"
    flags = shlex.split(os.environ.get("DOCKER_BUILD_FLAGS", ""))
    docker("build", *flags, "--build-arg", f"IMAGE={image}", "--tag", name, str(ROOT / "docs/examples/handlers"))
    return name


class Container(Server):
    """The service in a container: a read-only root, 512 MB, no privileges."""

    start_deadline = 120.0  # an engine may first copy the whole image

    def __init__(self, image: str, **variables: str) -> None:
        super().__init__(**variables)
        self.port = free_port()
        self.name = f"cloud-sockets-test-{self.port}"
        self._image = image
        self._environment = {"PORT": str(self.port), **variables}

    async def start(self) -> None:
        """Start the container, and wait for nothing."""
        environment = [f"--env={name}={value}" for name, value in self._environment.items()]
        self._process = await asyncio.create_subprocess_exec(
            "docker", "run", "--name", self.name, "--read-only", "--memory=512m", "--cap-drop=ALL",
            f"--network={os.environ.get('IMAGE_NETWORK', 'host')}", *environment, self._image,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        self._reading = asyncio.create_task(self._read_log())

    def cpu_seconds(self) -> float:
        """What its process has used."""
        ticks = "f=open('/proc/1/stat').read().rpartition(')')[2].split(); print(int(f[11]) + int(f[12]))"
        return int(docker("exec", self.name, "python", "-c", ticks)) / os.sysconf("SC_CLK_TCK")

    async def stop(self) -> float:
        """SIGTERM, as Cloud Run sends it; answers how many seconds it took to end."""
        begun = time.monotonic()
        await asyncio.to_thread(docker, "stop", "--time", "10", self.name)
        return time.monotonic() - begun


@asynccontextmanager
async def running(image: str, **variables: str) -> AsyncIterator[Container]:
    """A container that is ready; it is removed with the block."""
    container = Container(image, **variables)
    try:
        async with container:
            yield container
    finally:
        docker("rm", "--force", container.name)


def test_it_is_small_labelled_and_unprivileged(image: str, base: str) -> None:
    found = inspect(image)
    size, beyond = found["Size"] / MEGABYTE, (found["Size"] - inspect(base)["Size"]) / MEGABYTE
    print(f"\nimage: {size:.0f} MB unpacked, {beyond:.0f} MB beyond {base}")
    assert 0 < beyond < 200
    configuration = found["Config"]
    assert configuration["User"] == USER
    assert configuration["Cmd"] == ["python", "-m", "app"]
    assert "CLOUD_SOCKETS_HOST=0.0.0.0" in configuration["Env"]
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in configuration["Labels"].items()}
    assert labels["title"] == "cloud-sockets"
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"] in (ROOT / "pyproject.toml").read_text()
    assert labels["revision"] == os.environ.get("COMMIT", labels["revision"])


def test_nothing_is_left_of_the_build(image: str) -> None:
    def found(script: str) -> list[str]:
        return docker("run", "--rm", "--network=none", "--entrypoint=sh", image, "-c", script).splitlines()

    assert (
        found("ls -d /venv/bin/pip* /venv/lib/python*/site-packages/pip /build ~root/.cache/* 2>/dev/null; true") == []
    )
    assert found("find / -xdev -user 65532 2>/dev/null; true") == []
    assert found("command -v gcc cc git make uv; true") == []
    sources = found("find /service/app /venv/lib -name '*.py' -path '*/app/*'")
    assert "/service/app/__main__.py" in sources
    compiled = found("find /service/app -name '*.pyc'")
    assert len(compiled) == len([path for path in sources if path.startswith("/service/")])
    assert not any("test" in path for path in sources if path.startswith("/service/"))


async def test_it_serves_and_drains_over_pubsub(image: str, emulator_address: str, topic: str) -> None:
    seen_by_others = Topic(emulator_address, topic)
    async with running(
        image,
        PUBSUB_EMULATOR_HOST=emulator_address,
        GOOGLE_CLOUD_PROJECT=PROJECT,
        CLOUD_SOCKETS_PUBSUB_TOPIC_NAME=topic,
    ) as container:
        cpu = container.cpu_seconds()
        print(f"\nready after {cpu:.2f} s of CPU")
        assert cpu < READY
        assert inspect(container.name)["HostConfig"]["ReadonlyRootfs"]
        said = await smoke(f"http://127.0.0.1:{container.port}", "/ws", {})
        assert said.endswith("through Pub/Sub")

        clients = [Client(container.url) for _ in range(SOCKETS)]
        for client in clients:
            await client.__aenter__()
            await client.subscribe("news")
        await seen_by_others.publish(b'{"n":1}', type="announce", channel="news")
        for client in clients:
            assert (await client.receive())["payload"] == {"n": 1}
        assert len(await seen_by_others.subscriptions()) == 1

        seconds = await container.stop()
        print(f"ended {seconds:.2f} s after SIGTERM with {SOCKETS} sockets open")
        for client in clients:
            code, last = await client.closed()
            assert (code, last[-1]["type"], last[-1]["code"]) == (3001, "disconnect", 3001)
        assert seconds < GRACE
        state = inspect(container.name)["State"]
        assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
        assert await soon(seen_by_others.subscriptions()) == []
        assert "Traceback" not in container.log
    await seen_by_others.close()


async def test_it_warns_of_a_door_that_stands_open(image: str) -> None:
    async with running(image) as container:
        assert all(f"{name} is not set" in container.log for name in ("CLOUD_SOCKETS_AUTH", "CLOUD_SOCKETS_API_KEYS"))


async def test_bad_configuration_ends_it_with_a_sentence(image: str) -> None:
    container = Container(image, CLOUD_SOCKETS_MAX_PAYLOAD="much")
    await container.start()
    assert await container.wait(60) == 2
    assert "CLOUD_SOCKETS_MAX_PAYLOAD is 'much': allowed is" in container.log
    docker("rm", "--force", container.name)


async def test_handlers_of_ones_own_go_on_top(handlers_image: str) -> None:
    assert inspect(handlers_image)["Config"]["User"] == USER
    async with running(handlers_image) as container:
        async with Client(container.url) as ann, Client(container.url) as bob:
            await bob.subscribe("dice")
            await ann.send({"type": "rollDice"})
            rolled = await ann.receive()
            assert rolled["type"] == "diceRolled"
            assert 1 <= rolled["payload"] <= 6
            assert (await bob.receive())["payload"] == rolled["payload"]

        async def nobody() -> bool:
            return await container.metric("connections") == 0

        await until(nobody)
