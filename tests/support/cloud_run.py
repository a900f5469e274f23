"""As much of the Cloud Run Admin API (v1) as `gcloud run` needs, for one service, and of Secret Manager and Logging.

The real gcloud talks to it, as through an HTTP proxy: `variables()` says how. What it deploys becomes a revision with a
name, its traffic what was asked for, and each tag an address of its own.
"""

import base64
import copy
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

NAMESPACE = "/apis/serving.knative.dev/v1/namespaces/demo-project"
API = f"{NAMESPACE}/services/"


class CloudRun:
    """One service called `hub`, as it is after `terraform apply`. Use it as a context manager."""

    def __init__(
        self, urls: dict[str, str], variables: dict[str, str] | None = None, secrets: dict[str, str] | None = None
    ) -> None:
        """`urls`: under `""` the service's own address, and that of each tag. `variables`: of the container `hub`."""
        self._urls = urls
        self._secrets = secrets or {}
        self._revisions = 0
        self.deleted: list[str] = []
        environment = [{"name": name, "value": value} for name, value in (variables or {}).items()]
        hub = {"name": "hub", "image": "hello", "env": environment, "ports": [{"name": "http1", "containerPort": 8080}]}
        containers = [hub, {"name": "collector", "image": "rungmp"}]
        self.service: dict[str, Any] = {
            "apiVersion": "serving.knative.dev/v1",
            "kind": "Service",
            "metadata": {"name": "hub", "namespace": "demo-project", "generation": 0, "labels": {}, "annotations": {}},
            "spec": {},
            "status": {},
        }
        template = {"metadata": {"labels": {}, "annotations": {}}, "spec": {"containers": containers}}
        self._replace({"template": template, "traffic": [{"percent": 100, "latestRevision": True}]})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def variables(self, config: str) -> dict[str, str]:
        """What makes gcloud talk to this one, with no account; its own files go to the folder `config`."""
        return {
            "CLOUDSDK_CONFIG": config,
            "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_RUN": "http://run.test/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": "http://secrets.test/",
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING": "http://logging.test/",
            "CLOUDSDK_CORE_PROJECT": "demo-project",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
            "http_proxy": f"http://127.0.0.1:{self._server.server_port}",
            "no_proxy": "127.0.0.1,localhost",
        }

    @property
    def traffic(self) -> dict[str, int]:
        """Revision -> percent, of those that have any."""
        return {one["revisionName"]: one["percent"] for one in self.service["status"]["traffic"] if one.get("percent")}

    @property
    def tags(self) -> dict[str, str]:
        """Tag -> revision."""
        return {one["tag"]: one["revisionName"] for one in self.service["status"]["traffic"] if one.get("tag")}

    @property
    def images(self) -> dict[str, str]:
        """Container -> image, of the newest revision."""
        return {one["name"]: one["image"] for one in self.service["spec"]["template"]["spec"]["containers"]}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the JSON of a request."""
        if secret := re.search(r"/secrets/([\w-]+)/versions/latest:access", path):
            data = base64.b64encode(self._secrets[secret[1]].encode()).decode()
            return 200, {"name": f"projects/demo-project/secrets/{secret[1]}/versions/1", "payload": {"data": data}}
        if method == "DELETE" and (revision := re.search(rf"{NAMESPACE}/revisions/([\w-]+)", path)):
            self.deleted.append(revision[1])
            return 200, {}
        if method == "GET" and path.partition("?")[0].endswith(f"{NAMESPACE}/revisions"):
            return 200, {"kind": "RevisionList", "metadata": {}, "items": []}
        if "/v2/entries:list" in path:
            return 200, {}
        name = path.partition(API)[2].partition("?")[0]
        if name != "hub" or method not in ("GET", "PUT"):
            return 404, {"error": {"code": 404, "message": f"{method} {path} is not here", "status": "NOT_FOUND"}}
        if method == "PUT":
            asked = json.loads(body)
            self.service["metadata"]["labels"] = asked["metadata"].get("labels", {})
            self._replace(asked["spec"])
        return 200, self.service

    def _replace(self, spec: dict[str, Any]) -> None:
        """A new specification; where the template changed, a new revision."""
        template, before = spec["template"], self.service["spec"].get("template", {})
        labelled, labelled_before = (one.get("metadata", {}).get("labels") or {} for one in (template, before))
        if template["spec"] != before.get("spec") or labelled != labelled_before:
            self._revisions += 1
        newest = template["metadata"].get("name") or f"hub-{self._revisions:05d}"
        metadata, status = self.service["metadata"], self.service["status"]
        metadata["generation"] += 1
        self.service["spec"] = copy.deepcopy(spec)
        traffic = []
        for target in spec["traffic"]:
            shown = dict(target, revisionName=newest if target.get("latestRevision") else target["revisionName"])
            if tag := target.get("tag"):
                shown["url"] = self._urls[tag]
            traffic.append(shown)
        status.update(
            observedGeneration=metadata["generation"],
            latestCreatedRevisionName=newest,
            latestReadyRevisionName=newest,
            url=self._urls[""],
            traffic=traffic,
            conditions=[{"type": kind, "status": "True"} for kind in ("Ready", "ConfigurationsReady", "RoutesReady")],
        )


def _handler(cloud_run: CloudRun) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, shown = cloud_run.answer(self.command, self.path, body)
            data = json.dumps(shown).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    return Handler
