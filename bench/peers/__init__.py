"""Who is measured: how each is started, how its clients talk, and what it cannot do."""

import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import tools
from bench.load import Script

CHANNEL = "bench-@CHANNEL@"
FRAME_OVERHEAD = 330 - 128
"""Bytes of a delivered frame beside its payload, the same for every peer: what one's own way of writing saves is made
up for by a longer subId."""
WORDS = (
    "the room is open again seven seats are left near window talk on tides begins at half past four and whoever brings "
    "chart of northern coast gets tea bread very good story from harbour master wind turned north after noon ferry "
    "waits for mail nobody knows when lighthouse was built but its keeper has counted every ship since spring"
)
TEXTS = 256
"""Different payloads, in turn: more than fit into the 32 kB that a compressor with context takeover remembers."""


def payloads(size: int) -> list[str]:
    """Texts of so many bytes as JSON, quotes included, once the generator has filled in the message's number."""
    chance = random.Random(size)
    length = size - 2 - len("00000000") + len("@SEQ@")
    return [("#@SEQ@ " + " ".join(chance.choices(WORDS.split(), k=size // 2)))[:length] for _ in range(TEXTS)]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


@dataclass(frozen=True)
class Language:
    """How clients talk to a server."""

    subscriber: Script
    publisher: Script
    announce: Callable[[str], str]
    """A message with this payload."""


def _json_language() -> Language:
    place = {"channel": CHANNEL, "subId": "a" * 44}
    return Language(
        subscriber=Script(((0, _json({"type": "subscribe", **place})),), ready_after=2),  # welcome, ack
        publisher=Script((), ready_after=1),  # welcome
        announce=lambda payload: _json({"type": "announce", **place, "payload": payload}),
    )


def _socket_io_language() -> Language:
    place = {"channel": CHANNEL, "subId": "a" * 47}
    return Language(
        # Engine.IO's opening, Socket.IO's, welcome, ack
        subscriber=Script(((1, "40"), (3, "42" + _json(["subscribe", place]))), ready_after=4),
        publisher=Script(((1, "40"),), ready_after=3),
        announce=lambda payload: "42" + _json(["announce", {**place, "payload": payload}]),
    )


def _environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(tools.ROOT), **more}


@dataclass(frozen=True)
class Peer:
    """A server of the comparison."""

    name: str
    command: Callable[[int], list[str]]
    """How it is started on a port."""
    prepare: Callable[[], object] = lambda: None
    """Installs what it needs; raises tools.Missing."""
    environment: Callable[[int], dict[str, str]] = lambda _port: _environment()
    path: str = "/ws"
    language: Language = field(default_factory=_json_language)
    folder: Path = tools.ROOT
    """Folder in which the server starts."""
    deflates: bool = True
    has_channels: bool = True
    versions: Callable[[], str] = lambda: ""
    """Of what it runs on; asked once it is prepared."""
    notes: tuple[str, ...] = field(default=())


def _ours_environment(port: int) -> dict[str, str]:
    # The generator's publisher sends more than one client may; its rate is counted, and high enough.
    rates = {"CLOUD_SOCKETS_MESSAGE_RATE": "1000000", "CLOUD_SOCKETS_BYTE_RATE": "1000000000"}
    # None is kept unless it is asked for, now and before: no peer keeps any.
    types = {"CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES": os.environ.get("CLOUD_SOCKETS_PUBSUB_MESSAGE_TYPES", "")}
    return _environment(PORT=str(port), LOG_LEVEL="ERROR", **rates, **types)


def _node(script: str) -> Callable[[int], list[str]]:
    return lambda port: ["node", str(tools.BENCH / "peers" / script / "server.cjs"), str(port)]


def _node_environment(_port: int) -> dict[str, str]:
    return _environment(NODE_PATH=str(tools.NODE_MODULES), NODE_ENV="production")


OURS = Peer(
    "ours",
    lambda _port: [sys.executable, "-m", "app"],
    environment=_ours_environment,
    versions=lambda: tools.python_versions("quart", "hypercorn"),
)
BEFORE = "ours, before"


def before(commit: str) -> Peer:
    """Return the service as it was at a commit, with today's packages: to be measured beside today's in one run."""
    folder = tools.CACHE / "before"
    return Peer(
        BEFORE,
        lambda _port: [sys.executable, "-m", "app"],
        prepare=lambda: tools.check_out(commit, folder),
        environment=lambda port: {**_ours_environment(port), "PYTHONPATH": str(folder)},
        folder=folder,
        versions=lambda: commit,
    )


UVLOOP = Peer(
    "ours on uvloop",
    lambda _port: [sys.executable, "-m", "bench.peers.uvloop.server", str(tools.site_packages())],
    prepare=tools.python_peers,
    environment=_ours_environment,
    versions=lambda: tools.python_versions("uvloop", installed=tools.site_packages()),
)
C = Peer(
    "C, one send()",
    lambda port: [str(tools.c_program()), str(port)],
    prepare=tools.c_program,
    deflates=False,
    has_channels=False,
)
WS = Peer(
    "ws",
    _node("ws"),
    prepare=tools.node_peers,
    environment=_node_environment,
    versions=lambda: tools.node_versions("ws"),
)
SOCKET_IO = Peer(
    "Socket.IO",
    _node("socket_io"),
    prepare=tools.node_peers,
    environment=_node_environment,
    path="/socket.io/?EIO=4&transport=websocket",
    versions=lambda: tools.node_versions("socket.io"),
    language=_socket_io_language(),
)
STARLETTE = Peer(
    "Starlette on uvicorn",
    lambda port: [str(tools.VENV / "bin" / "python"), "-m", "bench.peers.starlette.server", str(port)],
    prepare=tools.python_peers,
    versions=lambda: tools.python_versions("starlette", "uvicorn", "httptools", installed=tools.site_packages()),
)
QUART = Peer("plain Quart on Hypercorn", lambda port: [sys.executable, "-m", "bench.peers.quart.server", str(port)])

PEERS = (OURS, UVLOOP, C, WS, SOCKET_IO, STARLETTE, QUART)
