"""A registry of container images, as far as a tag's digest needs it: the Distribution API with its token dance."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
TOKEN = "everybody-may-pull"


class Registry:
    """Serves on a loopback port, where clients need no TLS. Use it as a context manager."""

    def __init__(self) -> None:
        self.manifests: dict[str, bytes] = {}
        """`library/thing:1.0` -> the index that this tag names."""

        self.statuses: dict[str, tuple[int, dict[str, str]]] = {}
        """A path of a manifest, or `/token` -> what is answered in place of it."""

        self.challenge = 'Bearer realm="{realm}",service="registry.test",scope="repository:{path}:pull"'
        """Challenge that a request without a token is told; empty: no token is needed."""

        self.token: bytes = json.dumps({"token": TOKEN}).encode()
        self.names_digests = True
        """True: answers have `Docker-Content-Digest`."""

        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def add(self, image: str, content: str) -> str:
        """Push an index under a name and tag; answers its digest."""
        self.manifests[image] = content.encode()
        return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """The status, headers and body for a request."""
        self.asked.append(f"{method} {target}")
        parts = urlsplit(target)
        if parts.path in self.statuses:
            status, more = self.statuses[parts.path]
            return status, more, b""
        if parts.path == "/token":
            asked = parse_qs(parts.query)
            fits = asked.get("service") == ["registry.test"] and asked.get("scope", [""])[0].endswith(":pull")
            return (200, {}, self.token) if fits else (400, {}, b"")
        path, _, tag = parts.path.removeprefix("/v2/").partition("/manifests/")
        if self.challenge and headers.get("authorization") != f"Bearer {TOKEN}":
            told = self.challenge.format(realm=f"http://{self.host}/token", path=path)
            return 401, {"WWW-Authenticate": told}, b"{}"
        manifest = self.manifests.get(f"{path}:{tag}")
        if manifest is None or INDEX not in headers.get("accept", ""):
            return 404, {}, b"{}"
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        named = {"Docker-Content-Digest": digest} if self.names_digests else {}
        return 200, {"Content-Type": INDEX, **named}, manifest

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _respond(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, more, body = registry.answer(self.command, self.path, headers)
                self.send_response(status)
                for name, value in more.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = _respond  # noqa: N815

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        return Handler
