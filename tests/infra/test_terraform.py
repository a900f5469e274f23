"""What Terraform grants, sets and watches is what the service asks for, reads and counts."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.fanout.pubsub import client as pubsub_client
from app.fanout.pubsub.client import PERMISSIONS
from app.metrics import Metrics
from app.settings import Settings, variable_name
from tests.support import terraform
from tests.support.process import ROOT, Server
from tests.support.tools import missing

pytestmark = pytest.mark.once

CLOUD_RUNS = {"PORT", "K_SERVICE", "K_REVISION"}
"""Cloud Run sets these itself."""
NOT_DEPLOYED = {"PUBSUB_EMULATOR_HOST", "CLOUD_SOCKETS_HOST"}  # the latter is the image's


def environment() -> set[str]:
    """The variables that service.tf may set, secrets included."""
    return set(terraform.local("environment")) | set(
        re.findall(r"^ {6}([A-Z_]+) = \{$", (terraform.FOLDER / "secrets.tf").read_text(), re.MULTILINE)
    )


def test_every_variable_of_the_settings_can_be_set_and_no_other_is() -> None:
    variables = {variable_name(field) for field in Settings.model_fields}
    assert environment() == variables - CLOUD_RUNS - NOT_DEPLOYED


def test_every_attribute_of_settings_reaches_its_variable() -> None:
    kind = terraform.blocks("variable")["settings"]["type"]
    attributes = set(re.findall(r"(\w+) = optional\(", kind))
    assert attributes
    for attribute in attributes:
        value = terraform.local("environment")[variable_name(attribute)]
        assert f"var.settings.{attribute}" in value, attribute


def test_the_attributes_of_settings_have_the_settings_types() -> None:
    kind = terraform.blocks("variable")["settings"]["type"]
    kinds = dict(re.findall(r"(\w+) = optional\(([\w()]+?)\)(?=[,}])", kind))
    for attribute, kind in kinds.items():
        annotation = str(Settings.model_fields[attribute].annotation)
        expected = (
            "list(string)" if "tuple" in annotation
            else "bool" if "bool" in annotation
            else "number" if "int" in annotation
            else "string"
        )  # fmt: skip
        assert kind == expected, attribute


def test_the_topic_retains_what_an_instance_looks_back_for_and_both_know_the_request_timeout() -> None:
    history, skew = (Settings.model_fields[field].default for field in ("history_ttl", "delivery_skew"))
    topic = terraform.blocks("variable")["topic"]
    (retention,) = re.findall(r"retention_seconds = optional\(number, (\d+)\)", topic["type"])
    assert int(retention) >= history + skew + 60
    assert f"history_ttl, {history}) + coalesce(var.settings.delivery_skew, {skew})" in str(topic["validation"])
    service = terraform.resource("google_cloud_run_v2_service", "this")
    assert service["template"][0]["timeout"] == "${var.service.timeout_seconds}s"
    assert "var.service.timeout_seconds" in terraform.local("environment")["CLOUD_SOCKETS_REQUEST_TIMEOUT"]
    (timeout,) = re.findall(
        r"timeout_seconds = optional\(number, (\d+)\)", terraform.blocks("variable")["service"]["type"]
    )
    assert int(timeout) == Settings.model_fields["request_timeout"].default


def granted() -> dict[str, set[str]]:
    return {
        "the project": set(terraform.local("project_permissions")),
        "the topic": set(terraform.local("topic_permissions")),
    }


def test_the_roles_have_exactly_the_permissions_that_the_code_asks_for() -> None:
    asked: dict[str, set[str]] = {"the project": set(), "the topic": set()}
    for permission in (permission for needed in PERMISSIONS.values() for permission in needed):
        asked[permission.on].add(permission.name)
    assert granted() == asked
    instance = terraform.resource("google_project_iam_custom_role", "instance")
    assert instance["permissions"] == "${local.project_permissions}"
    topic = terraform.resource("google_project_iam_custom_role", "topic")
    assert topic["permissions"] == "${local.topic_permissions}"


def test_every_call_to_pubsub_is_listed_with_its_permissions() -> None:
    source = Path(pubsub_client.__file__).read_text()
    calls = set(re.findall(r'(?:_call|PubSubError)\(\s*"(\w+)"', source))
    only_to_the_emulator = {"create_topic", "get_topic"}
    assert calls - only_to_the_emulator == set(PERMISSIONS)
    methods = set(re.findall(r"self\._(?:publisher|subscriber)\.(\w+)", source))
    assert methods == {
        "create_topic", "get_topic", "list_topic_subscriptions", "create_subscription", "get_subscription",
        "delete_subscription", "seek", "publish",
    }  # fmt: skip


def test_every_permission_has_its_reason() -> None:
    text = (terraform.FOLDER / "iam.tf").read_text()
    for name in granted()["the project"] | granted()["the topic"]:
        assert re.search(rf'"{re.escape(name)}",\s+# \w+', text), name


async def test_the_probes_paths_exist() -> None:
    service = terraform.resource("google_cloud_run_v2_service", "this")
    hub = service["template"][0]["containers"][0]
    paths = [hub[probe][0]["http_get"][0]["path"] for probe in ("startup_probe", "liveness_probe")]
    uptime = terraform.resource("google_monitoring_uptime_check_config", "ready")
    paths.append(uptime["http_check"][0]["path"])
    async with Server() as server:
        for path in paths:
            assert (await server.get(path)).status == 200, path


def test_every_metric_that_is_watched_exists() -> None:
    known = set(re.findall(r"^# TYPE (\S+)", Metrics().render().decode(), re.MULTILINE))
    watched = set(re.findall(r"\b(cloud_sockets_\w+)\{", (terraform.FOLDER / "monitoring.tf").read_text()))
    assert len(watched) > 10
    assert watched <= known


def test_every_label_that_is_watched_exists() -> None:
    help_of = dict(re.findall(r"^# HELP (\S+) (.*)$", Metrics().render().decode(), re.MULTILINE))
    text = (terraform.FOLDER / "monitoring.tf").read_text()
    for metric, label, value in re.findall(r'(cloud_sockets_\w+)\{\$\{local\.target\},(\w+)!?=\\"(\w+)\\"', text):
        assert value in help_of[metric] or label == "code", (metric, value)


def test_every_log_line_that_is_counted_is_written() -> None:
    counted = re.findall(r'jsonPayload\.message=~\\"\^([^\\]+)\\"', (terraform.FOLDER / "monitoring.tf").read_text())
    code = "\n".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
    assert len(counted) == 2
    for text in counted:
        assert f'"{text}' in code, text


def test_every_variable_and_output_is_described_and_typed() -> None:
    variables = terraform.blocks("variable")
    assert all(block.get("description") and block.get("type") for block in variables.values())
    assert all(block.get("description") for block in terraform.blocks("output").values())
    named = re.findall(r"^#? ?(\w+) +=", (terraform.FOLDER / "terraform.tfvars.example").read_text(), re.MULTILINE)
    assert set(named) <= set(variables)
    assert "project_id" in named


def test_the_sections_of_the_runbook_that_alerts_point_to_exist() -> None:
    pointed = re.findall(r'docs/operations\.md, \\"([^\\]+)\\"', (terraform.FOLDER / "monitoring.tf").read_text())
    assert pointed
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert set(pointed) <= set(headings)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The configuration, to change something in it."""
    missing("terraform")
    for path in terraform.FOLDER.glob("*.tf"):
        (tmp_path / path.name).write_text(path.read_text())
    return tmp_path


def checked(folder: Path) -> tuple[bool, str]:
    """Whether .ci/terraform-test accepts it, and what it said."""
    done = subprocess.run(
        [ROOT / ".ci" / "terraform-test", folder], capture_output=True, text=True, timeout=300, check=False
    )
    if "skipped:" in done.stdout:
        pytest.skip(done.stdout.strip())
    return done.returncode == 0, done.stdout + done.stderr


def test_a_wrong_attribute_does_not_pass(copy: Path) -> None:
    service = copy / "service.tf"
    service.write_text(service.read_text().replace("session_affinity ", "session_affinitx "))
    passed, said = checked(copy)
    assert not passed
    assert 'An argument named "session_affinitx" is not expected here' in said


def test_the_example_can_be_applied_with_everything_that_is_commented_out_in_it(copy: Path) -> None:
    example = (terraform.FOLDER / "terraform.tfvars.example").read_text()
    assignments = re.sub(r"^# (\w+ += )", r"\1", example, flags=re.MULTILINE)
    assert assignments.count("\n# ") < example.count("\n# ")
    secrets = 'secret_key = "0123456789abcdef"\napi_keys = "0123456789abcdef"\n'
    run = f'mock_provider "google" {{}}\nvariables {{\n{secrets}{assignments}}}\nrun "example" {{}}\n'
    (copy / "example.tftest.hcl").write_text(run)
    (copy / "backend.tf").write_text((terraform.FOLDER / "backend.tf.example").read_text())
    subprocess.run(["terraform", "fmt", copy], check=True, capture_output=True)
    passed, said = checked(copy)
    assert passed, said
    assert "1 passed" in said


LOCK = ".terraform.lock.hcl"
GOOGLE = "registry.terraform.io/hashicorp/google"
PLATFORMS = ("linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64", "windows_amd64")


def test_the_provider_is_locked_for_all_platforms_and_within_its_constraint() -> None:
    missing("terraform")
    lock = (terraform.FOLDER / LOCK).read_text()
    hashes = re.findall(r'"(\w\w):([^"]+)"', lock)
    assert len({value for kind, value in hashes if kind == "zh" and re.fullmatch(r"[0-9a-f]{64}", value)}) >= len(
        PLATFORMS
    )
    assert all(re.fullmatch(r"[0-9a-f]{64}" if kind == "zh" else r"[\w+/]{43}=", value) for kind, value in hashes)
    (version,) = re.findall(r'version +  *= "([\d.]+)"', lock)
    (constraint,) = re.findall(r'\bversion = "(>= [^"]+)"', (terraform.FOLDER / "versions.tf").read_text())
    low, high = (tuple(map(int, number.split("."))) for number in re.findall(r"[\d.]+", constraint))
    assert low <= tuple(map(int, version.split("."))) < high
    assert re.findall(r'constraints = "(.*)"', lock) == [re.sub(r"(\d+\.\d+)(?!\.)", r"\1.0", constraint)]
    said = subprocess.run(["terraform", "version", "-json"], cwd=terraform.FOLDER, capture_output=True, check=True)
    assert json.loads(said.stdout)["provider_selections"] == {GOOGLE: version}


def test_the_lock_file_is_no_secret_of_one_machine() -> None:
    ignored = subprocess.run(["git", "check-ignore", "-q", f"terraform/{LOCK}"], cwd=ROOT, check=False)
    assert ignored.returncode == 1


def provider_mirror(folder: Path, version: str, *platforms: str) -> Path:
    """Packages of a provider that is not Google's, under its name."""
    for platform in platforms:
        package = folder / "mirror" / GOOGLE / version / platform / f"terraform-provider-google_v{version}_x5"
        package.parent.mkdir(parents=True)
        package.write_text(f"#!/bin/sh\n# {platform}\nexit 1\n")
        package.chmod(0o755)
    return folder / "mirror"


def test_a_provider_that_is_not_the_locked_one_is_refused_even_where_a_stand_in_is(copy: Path, tmp_path: Path) -> None:
    shutil.copy(terraform.FOLDER / LOCK, copy)
    (version,) = re.findall(r'version +  *= "([\d.]+)"', (copy / LOCK).read_text())
    platform = json.loads(subprocess.check_output(["terraform", "version", "-json"]))["platform"]
    mirror = provider_mirror(tmp_path, version, platform)
    configuration = tmp_path / "terraformrc"
    configuration.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
    stand_in = tmp_path / "stand-in"
    stand_in.write_text("print('1 passed')\n")
    environment = {**os.environ, "TF_CLI_CONFIG_FILE": str(configuration), "TERRAFORM_CHECK": str(stand_in)}
    done = subprocess.run(
        [ROOT / ".ci" / "terraform-test", copy],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "1 passed" not in done.stdout
    assert "make lock-terraform writes it anew" in done.stderr
    assert "checksums" in done.stderr


def test_a_stand_in_for_the_provider_needs_no_lock_and_leaves_it_as_it_is(copy: Path) -> None:
    shutil.copy(terraform.FOLDER / LOCK, copy)
    before = (copy / LOCK).read_text()
    passed, said = checked(copy)
    assert passed, said
    assert (copy / LOCK).read_text() == before


def test_make_writes_the_lock_for_all_platforms_or_not_at_all(copy: Path, tmp_path: Path) -> None:
    missing("terraform", "make")
    project = tmp_path / "project"
    (project / "terraform").mkdir(parents=True)
    for path in copy.glob("*.tf"):
        shutil.copy(path, project / "terraform")
    shutil.copy(ROOT / "Makefile", project)
    shutil.copy(terraform.FOLDER / LOCK, project / "terraform")
    before = (project / "terraform" / LOCK).read_text()

    def made(mirror: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", "lock-terraform", f"ARGS=-fs-mirror={mirror}"],
            cwd=project, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    assert made(provider_mirror(tmp_path / "few", "8.9.9", *PLATFORMS[:2])).returncode != 0
    assert (project / "terraform" / LOCK).read_text() == before
    done = made(provider_mirror(tmp_path / "all", "8.9.9", *PLATFORMS))
    assert done.returncode == 0, done.stdout + done.stderr
    after = (project / "terraform" / LOCK).read_text()
    assert 'version     = "8.9.9"' in after
    assert len(re.findall(r'"h1:[^"]+"', after)) == len(PLATFORMS)


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_without_a_provider_ci_fails_and_all_others_skip(tmp_path: Path, ci: str, status: int) -> None:
    stub = tmp_path / "terraform"
    stub.write_text('#!/bin/sh\n[ "$1" = fmt ]\n')
    stub.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CI": ci, "TERRAFORM_CHECK": str(tmp_path / "nothing")}
    done = subprocess.run(
        [ROOT / ".ci" / "terraform-test"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    assert "terraform init cannot have the google provider" in done.stdout + done.stderr
    assert done.stdout.startswith("skipped: ") == (status == 0)


def test_every_check_that_is_skipped_has_its_reason() -> None:
    files = [*terraform.FOLDER.glob("*.tf"), ROOT / "Dockerfile", ROOT / "docs/examples/handlers/Dockerfile"]
    skipped = re.findall(r"checkov:skip=(.*)", "\n".join(path.read_text() for path in files))
    assert len(skipped) > 5
    for skip in skipped:
        assert re.fullmatch(r"CKV2?_\w+:\w+ .{10,}", skip), skip


def test_every_validation_is_tried() -> None:
    """Each in a run of its own, which must fail."""
    runs = (terraform.FOLDER / "tests" / "refusals.tftest.hcl").read_text()
    for name, block in terraform.blocks("variable").items():
        assert runs.count(f"expect_failures = [var.{name}]") >= len(block.get("validation", [])), name
