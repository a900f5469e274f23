"""Proxies, with the configurations that docs/interop.md shows."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.deadline import soon, until
from tests.support.process import ROOT, free_port

DOCUMENT = ROOT / "docs" / "interop.md"
SHOWN_PORT = "8000"
"""Port on which each configuration listens, as shown."""
HUB_PORT = "8080"
"""Port of the hub, as shown."""
PATHS = ("/usr/sbin", "/usr/local/sbin")


def shown(name: str) -> str:
    """The configuration that stands below a proxy's heading."""
    text = DOCUMENT.read_text()
    found = re.search(rf"^### {re.escape(name)}$.*?^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/interop.md has no configuration of {name}"
    assert "\n### " not in found[0], f"docs/interop.md has no configuration of {name}"
    return found[1]


@dataclass(frozen=True)
class Proxy:
    """A proxy, and how it is run."""

    name: str
    package: str
    program: str
    timeouts: tuple[str, ...]
    """The idle times, as they stand in the configuration, or in the command; `60` is what is made shorter."""
    arguments: tuple[str, ...]
    """Of the program: `{folder}` has the `config`, `{port}` is where to listen, `{idle}` the idle time."""
    cuts: bool = True
    """True: the proxy has an idle time; Caddy has none."""
    around: str = "{}"
    """Text that Debian's own files have around that configuration."""

    @property
    def path(self) -> str | None:
        """The program; None where it is not there."""
        return shutil.which(self.program, path=os.pathsep.join((os.environ["PATH"], *PATHS)))

    @property
    def version(self) -> str:
        """As Debian has it."""
        ended = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${Version}", self.package],
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.stdout.rpartition(":")[2].partition("-")[0] or "?"

    def configuration(self, folder: Path, hub: int, port: int, idle: int) -> str:
        """Return what is shown, with the addresses and the idle time of a test. Each has to be there to be replaced."""
        text = shown(self.name)
        for line in self.timeouts:
            assert line in text, f"{self.name}: {line!r} is not in the configuration"
            text = text.replace(line, line.replace("60", str(idle)))
        ports = {SHOWN_PORT: str(port), HUB_PORT: str(hub)}
        pattern = rf"\b({'|'.join(ports)})\b"
        assert {*re.findall(pattern, text)} >= {HUB_PORT}, f"{self.name}: the hub's port is not in the configuration"
        text = re.sub(pattern, lambda found: ports[found[1]], text)
        return self.around.replace("{folder}", str(folder)).replace("{}", text)


PROXIES = (
    Proxy(
        "nginx",
        "nginx",
        "nginx",
        ("proxy_read_timeout 60s", "proxy_send_timeout 60s"),
        ("-p", "{folder}", "-c", "{folder}/config"),
        around="daemon off; user root; pid {folder}/pid; error_log stderr; events { }\nhttp {\naccess_log off;\n"
        "client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;\n"
        "uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;\n{}\n}\n",
    ),
    Proxy(
        "HAProxy",
        "haproxy",
        "haproxy",
        ("timeout client 60s", "timeout server 60s", "timeout tunnel 60s"),
        ("-db", "-f", "{folder}/config"),
    ),
    Proxy(
        "Caddy",
        "caddy",
        "caddy",
        (),
        ("run", "--adapter", "caddyfile", "--config", "{folder}/config"),
        cuts=False,
        around="{\n\tadmin off\n\tauto_https off\n\tstorage file_system {folder}\n}\n{}",
    ),
    Proxy(
        "Varnish",
        "varnish",
        "varnishd",
        (),
        ("-F", "-j", "none", "-n", "{folder}/work", "-f", "{folder}/config", "-a", "127.0.0.1:{port}",
         "-p", "pipe_timeout={idle}", "-s", "malloc,8m"),
    ),
    Proxy(
        "Apache",
        "apache2-bin",
        "apache2",
        ("Timeout 60",),
        ("-X", "-d", "{folder}", "-f", "{folder}/config"),
        around="ServerName localhost\nUser www-data\nGroup www-data\nPidFile {folder}/pid\n"
        "ErrorLog /dev/stderr\nDefaultRuntimeDir {folder}\n"
        + "".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"
            for name in ("mpm_event", "authz_core", "headers", "proxy", "proxy_http")
        )
        + "{}",
    ),
    Proxy(
        "lighttpd",
        "lighttpd",
        "lighttpd",
        ("server.max-read-idle = 60", "server.max-write-idle = 60"),
        ("-D", "-f", "{folder}/config"),
        around='server.document-root = "{folder}"\n{}',
    ),
)  # fmt: skip


@asynccontextmanager
async def running(proxy: Proxy, folder: Path, hub: int, idle: int) -> AsyncIterator[int]:
    """The proxy in front of a hub's port; yields the port at which it listens."""
    program = proxy.path
    assert program is not None
    port = free_port()
    (folder / "config").write_text(proxy.configuration(folder, hub, port, idle))
    folder.chmod(0o755)
    process = await asyncio.create_subprocess_exec(
        program, *(part.format(folder=folder, port=port, idle=idle) for part in proxy.arguments),
        stdout=PIPE, stderr=STDOUT, start_new_session=True,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )  # fmt: skip
    log = ""

    async def read() -> None:
        nonlocal log
        assert process.stdout is not None
        while line := await process.stdout.readline():
            log += line.decode(errors="replace")

    async def listens() -> bool:
        assert process.returncode is None, f"{proxy.name} ended with {process.returncode}:\n{log}"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        return True

    reading = asyncio.create_task(read())
    try:
        await until(listens, what=f"{proxy.name} never listened")
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        await soon(process.wait())
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        print(log)
