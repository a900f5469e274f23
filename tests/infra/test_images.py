"""The images that are built on and deployed: each has its tag and its digest, and `make pin-images` renews them.

The registry that is asked is a small one on this machine; it speaks the API of Docker Hub and Artifact Registry.
"""

import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.process import ROOT, free_port
from tests.support.registry import Registry
from tests.support.tools import missing

pytestmark = pytest.mark.once

OLD = f"sha256:{'0' * 64}"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as registry:
        yield registry


class Tree:
    """A project with images, its copy of .ci/images, and nothing else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in (".ci", "terraform", "docs/examples/handlers"):
            (root / folder).mkdir(parents=True)
        shutil.copy2(ROOT / ".ci" / "images", root / ".ci" / "images")

    def write(self, **files: str) -> None:
        """Write files: `Dockerfile`, `cloudbuild`, `service` and `example`."""
        for name, text in files.items():
            self._path(name).write_text(text)

    def read(self, name: str) -> str:
        return self._path(name).read_text()

    def everything(self) -> dict[str, bytes]:
        """All files and what is in them."""
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def _path(self, name: str) -> Path:
        paths = {
            "Dockerfile": "Dockerfile",
            "cloudbuild": "cloudbuild.yaml",
            "service": "terraform/service.tf",
            "example": "docs/examples/handlers/Dockerfile",
        }
        return self.root / paths[name]

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, self.root / ".ci" / "images", command],
            env={**os.environ, "no_proxy": "127.0.0.1"}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def fails(self, command: str) -> str:
        """Run a command that has to fail; return its one line."""
        before = self.everything()
        done = self.run(command)
        assert done.returncode == 1, done.stdout + done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert self.everything() == before
        return done.stderr.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("ci_images", str(ROOT / ".ci" / "images"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_every_image_of_the_project_has_its_digest(script: ModuleType) -> None:
    assert script.faults(ROOT) == []
    named = script.images(ROOT)
    assert {str(image.file) for image in named} == {
        "Dockerfile", "cloudbuild.yaml", "docs/examples/handlers/Dockerfile", "terraform/service.tf",
        "terraform/variables.tf",
    }  # fmt: skip
    example = "docs/examples/handlers/Dockerfile"  # its base is the image that its user builds
    assert [image for image in named if not image.digest and str(image.file) != example] == []


def test_no_image_escapes_the_check(script: ModuleType) -> None:
    """Names of registries, and stages' bases, wherever they stand in what is built and deployed."""
    known = {image.reference for image in script.images(ROOT)}
    for path in [ROOT / "cloudbuild.yaml", *(ROOT / "terraform").glob("*.tf")]:
        for name in re.findall(r'(?:[a-z-]+-docker\.pkg\.dev|gcr\.io)/[^\s"]+', path.read_text()):
            assert "$" in name or name in known, f"{path.name}: {name}"
    for path in (ROOT / "Dockerfile", ROOT / "docs/examples/handlers/Dockerfile"):
        for argument in re.findall(r"^FROM \$\{(\w+)\}", path.read_text(), re.MULTILINE):
            (default,) = re.findall(rf"^ARG {argument}=(\S+)$", path.read_text(), re.MULTILINE)
            assert default in known


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"Dockerfile": "FROM python:3.13-slim\n"}, "Dockerfile:1: python:3.13-slim has no digest: `make pin-images`"),
        ({"Dockerfile": f"FROM python@{OLD}\n"}, f"Dockerfile:1: python@{OLD} has no tag"),
        ({"Dockerfile": "FROM python:3@sha256:12\n"}, "python:3@sha256:12 has no digest that is sha256: and 64"),
        ({"Dockerfile": "ARG BASE=python:3\nFROM ${BASE}\n"}, "Dockerfile:1: python:3 has no digest"),
        ({"Dockerfile": f"FROM a:1@{OLD} AS b\nCOPY --from=c:1 / /\n"}, "Dockerfile:2: c:1 has no digest"),
        ({"cloudbuild": "steps:\n  - id: x\n    name: &b gcr.io/x/y\n"}, "cloudbuild.yaml:3: gcr.io/x/y has no tag"),
        ({"service": '  image = "eu.gcr.io/x/y:1"\n'}, "terraform/service.tf:1: eu.gcr.io/x/y:1 has no digest"),
        ({"service": '  image = optional(string, "h/y:1")\n'}, "terraform/service.tf:1: h/y:1 has no digest"),
        ({"service": f'  image = "y:1@{OLD}" # unpinned: later\n'}, "a comment that says it has none"),
        ({"Dockerfile": "FROM Python:3\n"}, "Dockerfile:1: Python:3 is no name of an image"),
    ],
)
def test_an_image_that_is_not_pinned_is_named(tree: Tree, files: dict[str, str], said: str) -> None:
    tree.write(**files)
    assert said in tree.fails("check")


@pytest.mark.parametrize(
    "files",
    [
        {"Dockerfile": f"ARG X=1\nARG BASE=python:3@{OLD}\nFROM ${{BASE}} AS b\nFROM b\nCOPY --from=b / /\n"},
        {"Dockerfile": "FROM scratch\n"},
        {"service": '  image = "y:1" # unpinned: until somebody asks\n'},
        {"example": "# unpinned: yours to name\nARG IMAGE=hub\nFROM ${IMAGE}\n"},
        {"cloudbuild": f"steps:\n  - name: &b gcr.io/x/y:1@{OLD}\n  - name: *b\nimages:\n  - ${{_REGION}}-docker/x\n"},
    ],
)
def test_what_is_pinned_or_explained_passes(tree: Tree, files: dict[str, str]) -> None:
    tree.write(**files)
    done = tree.run("check")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_mention_gets_the_digest_that_its_tag_has_now(tree: Tree, registry: Registry) -> None:
    base, builder = f"{registry.host}/library/python", f"{registry.host}/sdk/cli"
    digests = [registry.add("library/python:3.13-slim", '{"a":1}'), registry.add("sdk/cli:latest", '{"b":1}')]
    tree.write(
        Dockerfile=f"# pinned\nARG BASE={base}:3.13-slim@{OLD}\nFROM ${{BASE}} AS builder\nFROM ${{BASE}}\n",
        cloudbuild=f"steps:\n  - name: &b {builder}:latest # unpinned: never asked\n  - name: *b\n",
        service=f'  image      = "{base}:3.13-slim"\n  other = "{base}:3.13-slim"\n',
        example="# unpinned: yours to name\nARG IMAGE=hub\nFROM ${IMAGE}\n",
    )
    example = tree.read("example")
    (tree.root / "Dockerfile").chmod(0o640)
    done = tree.run("pin")
    assert done.returncode == 0, done.stderr
    assert tree.read("Dockerfile").splitlines()[1] == f"ARG BASE={base}:3.13-slim@{digests[0]}"
    assert tree.read("cloudbuild").splitlines()[1] == f"  - name: &b {builder}:latest@{digests[1]}"
    assert tree.read("service").splitlines() == [
        f'  image      = "{base}:3.13-slim@{digests[0]}"', f'  other = "{base}:3.13-slim"'
    ]  # fmt: skip
    assert tree.read("example") == example
    assert (tree.root / "Dockerfile").stat().st_mode & 0o777 == 0o640
    assert tree.run("check").returncode == 0
    heads = [asked for asked in registry.asked if asked.startswith("HEAD ")]
    assert len(heads) == 4  # each image once without a token, once with
    before = tree.everything()
    done = tree.run("pin")
    assert done.returncode == 0
    assert done.stdout.count("as it was") == 3
    assert tree.everything() == before


@pytest.mark.parametrize("token", [{"token": "everybody-may-pull"}, {"access_token": "everybody-may-pull"}])
def test_a_token_is_taken_under_both_of_its_names(tree: Tree, registry: Registry, token: dict[str, str]) -> None:
    registry.token = json.dumps(token).encode()
    digest = registry.add("thing:1", "{}")
    tree.write(Dockerfile=f"FROM {registry.host}/thing:1\n")
    done = tree.run("pin")
    assert done.returncode == 0, done.stderr
    assert tree.read("Dockerfile") == f"FROM {registry.host}/thing:1@{digest}\n"
    assert "GET /token?service=registry.test&scope=repository%3Athing%3Apull" in registry.asked


def test_a_registry_that_asks_for_no_token_and_names_no_digest_will_do(tree: Tree, registry: Registry) -> None:
    registry.challenge, registry.names_digests = "", False
    digest = registry.add("thing:1", '{"manifests": []}')
    tree.write(Dockerfile=f"FROM {registry.host}/thing:1\n")
    assert tree.run("pin").returncode == 0
    assert tree.read("Dockerfile") == f"FROM {registry.host}/thing:1@{digest}\n"


MANIFEST = "/v2/missing/manifests/1"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, "has no such image, or no such tag (404)"),
        ({MANIFEST: (429, {"Retry-After": "17"})}, "was asked too often (429): try again in 17 s"),
        ({MANIFEST: (429, {})}, "was asked too often (429): try again later"),
        ({MANIFEST: (403, {})}, "does not show it to everybody (403), or it does not exist"),
        ({MANIFEST: (503, {})}, "answers 503"),
        ({MANIFEST: (200, {"Docker-Content-Digest": "md5:12"})}, "answers with 'md5:12', which is no sha256 digest"),
        ({MANIFEST: (401, {})}, "its registry asks for '', not for a token that everybody gets"),
        ({MANIFEST: (401, {"WWW-Authenticate": 'Basic realm="x"'})}, "not for a token that everybody gets"),
        ({MANIFEST: (401, {"WWW-Authenticate": 'Bearer realm="http://example.com/"'})}, "not for a token"),
        ({MANIFEST: (401, {"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'})}, "not for a token"),
        ({"/token": (429, {"Retry-After": "3"})}, "was asked too often (429): try again in 3 s"),
        ({"/token": (200, {})}, "answers without a token"),
    ],
)
def test_a_refusal_is_a_sentence_and_nothing_is_written(
    tree: Tree, registry: Registry, answers: dict[str, tuple[int, dict[str, str]]], said: str
) -> None:
    registry.add("thing:1", "{}")
    registry.statuses.update(answers)
    tree.write(Dockerfile=f"FROM {registry.host}/thing:1\n", service=f'image = "{registry.host}/missing:1"\n')
    line = tree.fails("pin")
    assert line.startswith(f"images: {registry.host}/")
    assert said in line


@pytest.mark.parametrize("token", [b"", b"[]", b"{}", b'{"token": 1}', b'{"token": "a\\r\\nX: y"}', b"\xff"])
def test_an_answer_that_has_no_token_is_a_sentence(tree: Tree, registry: Registry, token: bytes) -> None:
    registry.token = token
    tree.write(Dockerfile=f"FROM {registry.host}/thing:1\n")
    assert "answers without a token" in tree.fails("pin")


def test_a_registry_that_cannot_be_reached_is_a_sentence(tree: Tree) -> None:
    host = f"127.0.0.1:{free_port()}"
    tree.write(Dockerfile=f"FROM {host}/thing:1\n")
    assert f"{host}/thing:1: {host} cannot be reached: " in tree.fails("pin")


def test_a_file_that_cannot_be_replaced_leaves_all_as_they_were(script: ModuleType, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "gone" / "second"
    first.write_text("old")
    with pytest.raises(script.ImagesError, match="cannot be written"):
        script.write({first: "new", second: "new"})
    assert first.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("name", "registry", "path"),
    [
        ("python", "https://registry-1.docker.io", "library/python"),
        ("docker.io/python", "https://registry-1.docker.io", "library/python"),
        ("grafana/k6", "https://registry-1.docker.io", "grafana/k6"),
        (
            "gcr.io/google.com/cloudsdktool/google-cloud-cli",
            "https://gcr.io",
            "google.com/cloudsdktool/google-cloud-cli",
        ),
        ("us-docker.pkg.dev/a/b/c", "https://us-docker.pkg.dev", "a/b/c"),
        ("localhost:5000/a", "http://localhost:5000", "a"),
        ("example.com:5000/a", "https://example.com:5000", "a"),
    ],
)
def test_the_registry_of_a_name_is_the_one_that_docker_would_ask(
    script: ModuleType, name: str, registry: str, path: str
) -> None:
    assert script.repository(name) == (registry, path)


def test_make_runs_both() -> None:
    missing("make")
    for target, command in {"lint": ".ci/images check", "pin-images": ".ci/images pin"}.items():
        said = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        assert command in said


def test_what_it_does_is_said(tree: Tree) -> None:
    done = tree.run("renew")
    assert done.returncode == 2
    assert ".ci/images pin" in done.stderr
