"""cloudbuild.yaml, each of its steps run as Cloud Build would: the real make and gcloud, a real service to try, and in
place of Cloud Run and Docker what writes down what it was told.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import terraform
from tests.support.cloud_run import CloudRun
from tests.support.process import ROOT, Server, free_port
from tests.support.tools import missing

pytestmark = pytest.mark.once

BUILD: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text())
GIVEN = {"PROJECT_ID": "demo-project", "COMMIT_SHA": "0123abcd", "BUILD_ID": "42"}
STEPS = [step["id"] for step in BUILD["steps"]]
NARROWED = {
    "test": "tests/unit/test_backoff.py",  # all the others are running already
    "image-test": "--collect-only",  # tests/image runs it
}
"""What `make` runs of the tests here, for the steps that run tests."""


def substituted(text: str) -> str:
    """With the values that Cloud Build puts in place of $NAME and ${NAME}. KeyError for what is none."""
    values = {**GIVEN, **BUILD["substitutions"], "_SERVICE": "hub"}
    return re.sub(r"\$\{?(\w+)\}?", lambda found: str(values[found[1]]), text)


class Workspace:
    """What `gcloud builds submit` would upload, which is no git repository, and what a step finds around it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "workspace"
        self.docker_log = folder / "docker.log"
        uploaded = subprocess.run(
            ["gcloud", "meta", "list-files-for-upload"],
            cwd=ROOT, env={**os.environ, "CLOUDSDK_CONFIG": str(folder / "gcloud")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for name in uploaded.stdout.splitlines():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.root / name)
        stubs = folder / "bin"
        stubs.mkdir()
        self._stub(stubs / "docker", f'echo "$@" >> {self.docker_log}')
        self._stub(stubs / "apt-get", "echo nothing is installed from a test >&2; exit 1")
        self.variables = {
            "HOME": str(folder),
            "PATH": f"{stubs}:{os.environ['PATH']}",
        }
        self._lend_environment()

    def _lend_environment(self) -> None:
        """Have make find the environment of these tests, complete, but not so that it could remove it."""
        lent = self.root / ".venv"
        lent.mkdir()
        for path in Path(sys.prefix).iterdir():
            if path.suffix != ".stamp":
                (lent / path.name).symlink_to(path)
        python = "import sys; print(sys.executable, *sys.version_info[:3])"
        (lent / "python.stamp").write_text(subprocess.check_output(["python3", "-c", python], text=True))
        for name in ("run.stamp", "dev.stamp"):
            (lent / name).touch()

    @staticmethod
    def _stub(path: Path, script: str) -> None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, step_id: str, **more: str) -> "subprocess.CompletedProcess[str]":
        """Run a step's script."""
        step = next(step for step in BUILD["steps"] if step["id"] == step_id)
        environment = dict(substituted(entry).split("=", 1) for entry in step["env"])
        return subprocess.run(
            ["sh", "-e", "-c", step["script"]],
            cwd=self.root, env={**self.variables, **environment, "PYTEST_ADDOPTS": NARROWED.get(step_id, ""), **more},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    missing("make", "gcloud")
    return Workspace(tmp_path)


@pytest.fixture
def gcloud_folder(tmp_path: Path) -> str:
    return str(tmp_path / "gcloud")


def test_the_steps_are_in_the_order_that_lets_nothing_untried_through() -> None:
    assert STEPS == ["lint", "test", "image", "image-test", "push", "canary", "canary-smoke", "promote"]
    assert not any("waitFor" in step or step.get("allowFailure") for step in BUILD["steps"])


def test_every_substitution_is_used_and_every_use_has_a_value() -> None:
    used = set(re.findall(r"\$\{?(_[A-Z_]+)", (ROOT / "cloudbuild.yaml").read_text()))
    assert used == set(BUILD["substitutions"])


def test_the_account_the_image_and_the_defaults_are_terraforms() -> None:
    account = terraform.resource("google_service_account", "build")["account_id"].replace("${var.name}", "hub")
    assert substituted(BUILD["serviceAccount"]).endswith(f"/{account}@demo-project.iam.gserviceaccount.com")
    image = terraform.blocks("output")["image"]["value"]
    values = {"var.region": "europe-west1", "var.project_id": "demo-project"}
    repository = "google_artifact_registry_repository.images.repository_id"
    made = re.sub(r"\$\{(.*?)\}", lambda found: {**values, repository: "hub"}[found[1]], image)
    assert [substituted(name) for name in BUILD["images"]] == [f"{made}:0123abcd", f"{made}:latest"]
    defaults = {name: terraform.blocks("variable")[name]["default"] for name in ("name", "region")}
    assert defaults == {"name": BUILD["substitutions"]["_SERVICE"], "region": BUILD["substitutions"]["_REGION"]}
    command = terraform.blocks("output")["deploy_command"]["value"]
    assert set(re.findall(r"(_?[A-Z_]+)=\$", command)) == {"_SERVICE", "_REGION", "COMMIT_SHA"}
    assert ",_SMOKE_URL=" in terraform.local("smoke_url")


@pytest.mark.parametrize("step", ["lint", "test", "image-test"])
def test_a_step_that_checks_passes(workspace: Workspace, step: str) -> None:
    done = workspace.run(step)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_built_and_pushed_under_its_commit_and_its_tag(workspace: Workspace) -> None:
    for step in ("image", "push"):
        done = workspace.run(step)
        assert done.returncode == 0, done.stdout + done.stderr
    by_commit, by_tag = (substituted(name) for name in BUILD["images"])
    told = workspace.docker_log.read_text().splitlines()
    assert [line for line in told if not line.startswith("version")] == [  # which gcloud asks for
        f"build --build-arg COMMIT=0123abcd --tag {by_commit} .",
        f"push {by_commit}",
        f"tag {by_commit} {by_tag}",
        f"push {by_tag}",
    ]
    assert "europe-west1-docker.pkg.dev" in (Path(workspace.variables["HOME"]) / ".docker/config.json").read_text()


@pytest.fixture
def nowhere() -> str:
    """An address where nobody answers."""
    return f"http://127.0.0.1:{free_port()}"


def image() -> str:
    return substituted(BUILD["images"][0])


async def test_a_canary_that_works_gets_all_traffic(workspace: Workspace, gcloud_folder: str) -> None:
    async with Server() as server:
        url = f"http://127.0.0.1:{server.port}"
        with CloudRun({"": url, "canary": url}) as cloud_run:
            (before,) = cloud_run.traffic
            variables = cloud_run.variables(gcloud_folder)

            done = await asyncio.to_thread(workspace.run, "canary", **variables)
            assert done.returncode == 0, done.stdout + done.stderr
            assert cloud_run.traffic == {before: 100}
            assert cloud_run.tags["canary"] != before
            assert cloud_run.images == {"hub": image(), "collector": "rungmp"}
            assert cloud_run.service["metadata"]["labels"] == {"commit": "0123abcd"}

            for step in ("canary-smoke", "promote"):
                done = await asyncio.to_thread(workspace.run, step, **variables)
                assert done.returncode == 0, done.stdout + done.stderr
                assert "carried an announce from one socket to another" in done.stdout
            (after,) = cloud_run.traffic
            assert after != before
            assert cloud_run.tags == {}
        assert await server.metric("connections_opened_total") == 4


async def test_a_canary_that_fails_never_gets_traffic(workspace: Workspace, gcloud_folder: str, nowhere: str) -> None:
    with CloudRun({"": nowhere, "canary": nowhere}) as cloud_run:
        before = cloud_run.traffic
        variables = cloud_run.variables(gcloud_folder)
        assert (await asyncio.to_thread(workspace.run, "canary", **variables)).returncode == 0
        done = await asyncio.to_thread(workspace.run, "canary-smoke", **variables)
        assert done.returncode != 0
        assert f"the smoke test of {nowhere} failed" in done.stderr
        assert "Traceback" not in done.stderr
        assert (cloud_run.traffic, cloud_run.tags) == (before, {})


async def test_a_revision_that_fails_under_traffic_loses_it_again(
    workspace: Workspace, gcloud_folder: str, nowhere: str
) -> None:
    async with Server() as server:
        with CloudRun({"": nowhere, "canary": f"http://127.0.0.1:{server.port}"}) as cloud_run:
            before = cloud_run.traffic
            variables = cloud_run.variables(gcloud_folder)
            for step, status in (("canary", 0), ("canary-smoke", 0), ("promote", 2)):
                done = await asyncio.to_thread(workspace.run, step, **variables)
                assert done.returncode == status, done.stdout + done.stderr
            assert "rolled back" in done.stdout
            assert (cloud_run.traffic, cloud_run.tags) == (before, {})


async def test_behind_a_load_balancer_the_smoke_test_takes_its_way(
    workspace: Workspace, gcloud_folder: str, nowhere: str
) -> None:
    async with Server(CLOUD_SOCKETS_PATH="/live") as server:
        with CloudRun({"": nowhere, "canary": nowhere}, {"CLOUD_SOCKETS_PATH": "/live"}) as cloud_run:
            variables = {**cloud_run.variables(gcloud_folder), "SMOKE_URL": f"http://127.0.0.1:{server.port}"}
            for step in ("canary", "canary-smoke", "promote"):
                done = await asyncio.to_thread(workspace.run, step, **variables)
                assert done.returncode == 0, done.stdout + done.stderr


async def test_a_service_with_sessions_is_signed_in_to(workspace: Workspace, gcloud_folder: str) -> None:
    session = {"CLOUD_SOCKETS_AUTH": "session", "CLOUD_SOCKETS_INCLUDE_USER_PROPS": "id,mail"}
    async with Server(**session, SECRET_KEY="0123456789abcdef") as server:
        url = f"http://127.0.0.1:{server.port}"
        secrets = {"hub-secret-key": "0123456789abcdef"}
        with CloudRun({"": url, "canary": url}, {**session, "SECRET_KEY": ""}, secrets) as cloud_run:
            variables = cloud_run.variables(gcloud_folder)
            assert (await asyncio.to_thread(workspace.run, "canary", **variables)).returncode == 0
            done = await asyncio.to_thread(workspace.run, "canary-smoke", **variables)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "carried an announce" in done.stdout
            assert "0123456789abcdef" not in done.stdout + done.stderr


def test_a_rollback_that_knows_nothing_says_what_to_do(workspace: Workspace) -> None:
    done = subprocess.run(
        [sys.executable, workspace.root / ".ci/deploy", "rollback"],
        env={**os.environ, "SERVICE": "hub", "REGION": "europe-west1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "gcloud run services update-traffic --to-revisions=NAME=100" in done.stderr


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["canary"], 1), (["smoke"], 1)])
def test_what_deploy_needs_is_said(workspace: Workspace, arguments: list[str], status: int) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in ("SERVICE", "REGION")}
    done = subprocess.run(
        [sys.executable, workspace.root / ".ci/deploy", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status
    assert "SERVICE" in done.stderr
    assert "Traceback" not in done.stderr


def prepared(folder: Path, release: str, *arguments: str, path: str = "") -> "subprocess.CompletedProcess[str]":
    """Run .ci/prepare where Python cannot make environments; what it installs is in the file `log`."""
    (folder / "os-release").write_text(f"{release}\n")
    for name, script in {"python3": "exit 1", "apt-get": f'echo "$@" >> {folder}/log'}.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        [ROOT / ".ci/prepare", *arguments],
        env={"PATH": f"{folder}:{path or os.environ['PATH']}", "OS_RELEASE": str(folder / "os-release")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["lint"], []])
@pytest.mark.parametrize(("release", "version"), [("bookworm", "3.11.2-*"), ("trixie", "3.13.5-*")])
def test_a_python_that_cannot_make_environments_is_completed(
    tmp_path: Path, arguments: list[str], release: str, version: str
) -> None:
    """As in Cloud Build's builder, whose Python is Debian's without python3-venv."""
    done = prepared(tmp_path, f"VERSION_CODENAME={release}", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"python3-venv={version}" in (tmp_path / "log").read_text().splitlines()[-1].split()


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_every_package_that_is_installed_has_its_version(tmp_path: Path, release: str) -> None:
    """On a machine that has none of them, but what the script itself runs on."""
    few = tmp_path / "few"
    few.mkdir()
    for name in ("bash", "env", "dirname"):
        (few / name).symlink_to(str(shutil.which(name)))
    done = prepared(tmp_path, f"VERSION_CODENAME={release}", path=str(few))
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log").read_text().splitlines()[-1].split()
    packages = [word for word in log if not word.startswith("-") and word != "install"]
    assert len(packages) == 8
    assert [package for package in packages if "=" not in package] == ["chromium"]  # Debian keeps the newest one alone


@pytest.mark.parametrize(
    ("release", "package"), [("bookworm", "docker.io=20.10.24*"), ("trixie", "docker-cli=26.1.5*")]
)
def test_steps_that_build_get_dockers_command(tmp_path: Path, release: str, package: str) -> None:
    """Google's builder has none, and no make either."""
    few = tmp_path / "few"
    few.mkdir()
    for name in ("bash", "env", "dirname"):
        (few / name).symlink_to(str(shutil.which(name)))
    done = prepared(tmp_path, f"VERSION_CODENAME={release}", "image", path=str(few))
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "log").read_text().splitlines()[-1].split()
    assert package in log
    assert [word for word in log if word.startswith("make=")]


def test_each_step_installs_what_it_calls() -> None:
    for step in BUILD["steps"]:
        first, *others = step["script"].strip().splitlines()
        needed = {"lint": "lint", "test": "", "canary": "deploy", "canary-smoke": "deploy", "promote": "deploy"}
        assert first == f".ci/prepare {needed.get(step['id'], 'image')}".strip()
        assert others, step


def test_a_system_whose_packages_are_not_known_gets_none(tmp_path: Path) -> None:
    done = prepared(tmp_path, 'PRETTY_NAME="Some Linux 9"', "lint")
    assert done.returncode == 1
    assert "python3-venv is missing, and .ci/debian-versions knows none for Some Linux 9: install it" in done.stderr
    assert not (tmp_path / "log").exists()


def test_the_docker_engine_that_is_unpacked_has_its_version_and_the_stand_in_takes_the_bases_place() -> None:
    script = (ROOT / ".ci/with-docker").read_text()
    for name in ("docker.io", "containerd", "runc", "debootstrap"):
        assert f'"$(pinned {name})"' in script
    said = subprocess.run(["make", "--dry-run", "image", "DOCKER_BUILD_FLAGS=--build-arg BASE=stand-in"],
                          cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    assert "docker build --build-arg BASE=stand-in " in said.stdout
    assert re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE) == ["${BASE}", "${BASE}"]
