"""Which clients there are, how each is begun, and what is known of it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.process import ROOT

HERE = Path(__file__).parent
ADAPTERS = HERE / "adapters"
PYTHON = Path(os.environ.get("INTEROP_PYTHON", ROOT / ".cache/interop/bin/python"))
"""An interpreter that has the clients for Python, `requirements.lock`."""
MODULES = Path(os.environ.get("INTEROP_MODULES", ROOT / ".cache/interop/node"))
"""A folder with those for Node, `package-lock.json`, in its node_modules."""
CLASSES = ROOT / ".cache/interop/java"
DEBIAN_PYTHON = "/usr/bin/python3"
JARS = Path("/usr/share/java")
PLAIN, DEFLATE = "plain", "deflate"


class Missing(Exception):
    """A client that this machine does not have; says how it comes."""


class Known(NamedTuple):
    """A fault of a client: what it shows in the place of what is right, and why."""

    shows: str
    why: str


class Run(NamedTuple):
    """How an adapter is begun, and its library's version."""

    command: tuple[str, ...]
    version: str
    variables: Mapping[str, str] = {}


@dataclass(frozen=True)
class Kind:
    """A client. `known`: its faults, by the step at which they show."""

    name: str
    run: Callable[[], Run]
    modes: tuple[str, ...] = (PLAIN,)
    compresses: bool = True
    """True: the client compresses what it sends, where it may; else only what it receives is compressed."""
    tries: int = 1
    """How often it may fail to connect, since it is known to."""
    known: Mapping[str, Known] = field(default_factory=dict)


BOTH = (PLAIN, DEFLATE)


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _of_debian(package: str) -> str:
    version = _output("dpkg-query", "--show", "--showformat=${Version}", package)
    if not version:
        raise Missing(f"apt-get install {package}")
    return version.rpartition(":")[2].partition("-")[0].partition("+")[0]


def _python(package: str, adapter: str = "") -> Callable[[], Run]:
    """A client of the lock, for Python."""

    def run() -> Run:
        if not PYTHON.exists():
            raise Missing("make interop installs it")
        version = _output(str(PYTHON), "-c", f"from importlib.metadata import version as v; print(v('{package}'))")
        if not version:
            raise Missing("it is not in tests/interop/requirements.lock")
        module = f"tests.interop.adapters.with_{adapter or package.replace('-', '_')}"
        return Run((str(PYTHON), "-m", module), version)

    return run


def _debian_python(package: str, adapter: str) -> Callable[[], Run]:
    def run() -> Run:
        version = _of_debian(package)
        return Run(
            (DEBIAN_PYTHON, "-m", f"tests.interop.adapters.with_{adapter}"), version, {"QT_LOGGING_RULES": "*=false"}
        )

    return run


def _installed(name: str) -> Path:
    found = MODULES / "node_modules" / name
    if not found.exists():
        raise Missing("make interop installs it, where npm is")
    return found


def _version_of(name: str) -> str:
    return _output("node", "-p", f"require('{_installed(name)}/package.json').version")


def _node(package: str, adapter: str) -> Callable[[], Run]:
    def run() -> Run:
        if shutil.which("node") is None:
            raise Missing("node is not installed")
        return Run(("node", str(ADAPTERS / adapter)), _version_of(package), {"MODULES": str(MODULES)})

    return run


def _node_itself() -> Run:
    option = "--experimental-websocket"
    if _output("node", option, "-p", "typeof WebSocket") != "function":
        raise Missing("node 20.10 or later is not installed")
    return Run(
        ("node", option, "--no-warnings", str(ADAPTERS / "with_own_class.mjs")),
        _output("node", "--version").removeprefix("v"),
    )


def _runtime(package: str, pattern: str, *options: str) -> Callable[[], Run]:
    """A program that comes as a package of npm."""

    def run() -> Run:
        version = _version_of(package)
        program = next(iter(sorted((MODULES / "node_modules").glob(pattern))), None)
        if program is None:
            raise Missing("its package has no program for this machine")
        return Run((str(program), *options, str(ADAPTERS / "with_own_class.mjs")), version)

    return run


def _perl() -> Run:
    return Run(("perl", str(ADAPTERS / "with_mojolicious.pl")), _of_debian("libmojolicious-perl"))


@cache
def _compiled(path: str) -> None:
    CLASSES.mkdir(parents=True, exist_ok=True)
    sources = [str(ADAPTERS / "java" / name) for name in ("Lines.java", path)]
    subprocess.run(
        ["javac", "-d", str(CLASSES), *(["-cp", _jars()] if _jars() else []), *sources], check=True, timeout=120
    )


def _jars() -> str:
    names = ("netty-buffer", "netty-codec", "netty-codec-http", "netty-common", "netty-handler", "netty-resolver",
             "netty-transport", "jctools-core", "tomcat9-websocket", "tomcat9-websocket-api", "tomcat9-util",
             "tomcat9-juli", "tomcat9-coyote", "tomcat9-catalina", "tomcat9-api", "tomcat9-servlet-api")  # fmt: skip
    return ":".join(str(JARS / f"{name}.jar") for name in names if (JARS / f"{name}.jar").exists())


def _java(adapter: str, package: str = "") -> Callable[[], Run]:
    def run() -> Run:
        if shutil.which("javac") is None:
            raise Missing("apt-get install default-jdk-headless")
        version = _of_debian(package) if package else _output("java", "--version").split()[1]
        _compiled(f"{adapter}.java")
        path = ":".join((str(CLASSES), _jars()))
        return Run(("java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", path, adapter), version)

    return run


_NO_CODE = "its interface has no close codes"
KINDS = (
    Kind("aiohttp", _python("aiohttp"), BOTH),
    Kind("curl_cffi (libcurl)", _python("curl_cffi")),
    Kind("httpx-ws", _python("httpx-ws")),
    Kind("lomond", _python("lomond"), BOTH),
    Kind(
        "niquests",
        _python("niquests"),
        (DEFLATE,),
        known={
            "too big": Known("without a code", _NO_CODE),
            "shutdown": Known("without a code", _NO_CODE),
            "close": Known("1002", "its close() sends the code 0, which no endpoint may send"),
        },
    ),
    Kind("picows", _python("picows")),
    Kind("pycurl (libcurl)", _python("pycurl")),
    Kind("simple-websocket", _python("simple-websocket")),
    Kind("Tornado", _python("tornado"), BOTH),
    Kind("trio-websocket", _python("trio-websocket")),
    Kind("websocket-client", _python("websocket-client")),
    Kind("websockets", _python("websockets"), BOTH),
    Kind(
        "ws4py",
        _python("ws4py"),
        tries=12,
        known={"connect": Known("nothing", "it loses what comes in one segment with the 101, as the welcome does")},
    ),
    Kind("wsproto", _python("wsproto"), BOTH),
    Kind("ws (Node)", _node("ws", "with_ws.mjs"), BOTH),
    Kind("undici (Node)", _node("undici", "with_undici.mjs"), (DEFLATE,), compresses=False),
    Kind("faye-websocket (Node)", _node("faye-websocket", "with_faye.mjs"), BOTH),
    Kind("websocket (Node)", _node("websocket", "with_websocket.mjs")),
    Kind("Node's own class", _node_itself, (DEFLATE,), compresses=False),
    Kind("Bun", _runtime("bun", "@oven/bun-linux-*/bin/bun"), (DEFLATE,)),
    Kind("Deno", _runtime("deno", "@deno/linux-*/deno", "run", "--no-config", "--allow-all")),
    Kind("QtWebSockets 5", _debian_python("python3-pyqt5.qtwebsockets", "qt5")),
    Kind("libsoup 3", _debian_python("gir1.2-soup-3.0", "libsoup3"), BOTH),
    Kind("Mojolicious", _perl, BOTH),
    Kind("Netty", _java("WithNetty", "libnetty-java"), BOTH),
    Kind("Tomcat", _java("WithTomcat", "libtomcat9-java"), BOTH),
    Kind("JDK java.net.http", _java("WithJdk")),
)
