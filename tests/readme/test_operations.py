"""What docs/operations.md names is there, in these words, and its commands do what it says."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from app.metrics import Metrics
from tests.support import terraform
from tests.support.cloud_run import CloudRun
from tests.support.cluster import PROJECT, cluster
from tests.support.deadline import soon
from tests.support.process import ROOT
from tests.support.tools import missing

pytestmark = pytest.mark.once

TEXT = (ROOT / "docs" / "operations.md").read_text()
CODE = "\n".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
TOOLS = (ROOT / ".ci" / "deploy").read_text() + (ROOT / "tests" / "smoke.py").read_text()
RUN_BOOK = TEXT[TEXT.index("## Run book") :]
SITUATIONS = re.findall(r"^### (.*)$", RUN_BOOK, re.MULTILINE)


def test_every_metric_that_is_named_exists() -> None:
    known = set(re.findall(r"^# TYPE (\S+)", Metrics().render().decode(), re.MULTILINE))
    named = set(re.findall(r"`(cloud_sockets_\w+)", TEXT))
    assert len(named) > 5
    assert named <= known


LINES = [
    quoted
    for quoted in re.findall(r"`([^`\n]+)`", RUN_BOOK)
    if re.match(r"[a-z…] ?[a-z]* ", quoted) and not quoted.startswith("gcloud")
]
"""What the log or a command says: words, not names."""


@pytest.mark.parametrize("quoted", LINES)
def test_every_line_that_is_quoted_is_written(quoted: str) -> None:
    """`…`, numbers and addresses stand for what differs."""
    said = [piece.strip() for piece in re.split(r"…|\d+|[:;/]|https|projects|topics", quoted)]
    said = [piece for piece in said if " " in piece]
    assert said
    for piece in said:
        assert piece in CODE + TOOLS, piece


def test_there_are_lines_to_check() -> None:
    assert len(LINES) > 10


def test_every_variable_and_make_target_that_is_named_exists() -> None:
    assert set(re.findall(r"`(\w+\.\w+)`?(?: \(default| = )", TEXT)) <= {
        f"service.{name}" for name in re.findall(r"(\w+) = optional", terraform.blocks("variable")["service"]["type"])
    }
    for variable, attribute in re.findall(r"`(service|topic)\.(\w+)", TEXT):
        assert attribute in terraform.blocks("variable")[variable]["type"], attribute
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+) ", RUN_BOOK):
        assert f"\n{target}:" in makefile, target
    for output in re.findall(r"output -raw (\w+)", TEXT):
        assert output in terraform.blocks("output")


def test_every_alert_that_is_named_exists() -> None:
    monitoring = (terraform.FOLDER / "monitoring.tf").read_text()
    for alert in re.findall(r'the alert "([^"]+)"', TEXT):
        assert f'"{alert}"' in monitoring


def test_the_run_book_has_the_situations_that_one_looks_for() -> None:
    assert SITUATIONS == ["Deploy", "Roll back", "Drain", "Orphan sweep", "A deaf instance", "The topic is out"]


def commands(situation: str) -> list[str]:
    """The commands under a heading of the run book."""
    section = RUN_BOOK[RUN_BOOK.index(f"### {situation}\n") :].split("\n### ")[0]
    return "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)).splitlines()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_situation_has_its_command(situation: str) -> None:
    assert commands(situation)


async def run(command: str, environment: dict[str, str], **words: str) -> str:
    """Run a command of the run book, with these words in place of its own; answers what it prints."""
    for word, instead in words.items():
        command = command.replace(word, instead)
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", command), stdout=PIPE, stderr=PIPE, cwd=ROOT, env={**os.environ, **environment}
    )
    output, errors = await soon(process.communicate(), 60)
    assert process.returncode == 0, f"{command}\n{errors.decode()}"
    return output.decode()


async def test_the_commands_to_cloud_run_do_what_they_are_there_for(tmp_path: Path) -> None:
    """The real gcloud, and a Cloud Run that does what it is told."""
    missing("gcloud")
    with CloudRun({"": "http://hub.test"}) as cloud_run:
        environment = {**cloud_run.variables(str(tmp_path)), "SERVICE": "hub", "REGION": "europe-west1"}
        (logs,) = re.findall(r"`(gcloud run services logs [^`]+)`", RUN_BOOK)
        await run(logs, environment)

        (first,) = cloud_run.traffic
        (restart,) = commands("A deaf instance")
        await run(restart, environment)
        (second,) = cloud_run.traffic
        assert second != first

        back = next(command for command in commands("Roll back") if command.startswith("gcloud"))
        await run(back, environment, REVISION=first)
        assert cloud_run.traffic == {first: 100}
        (forth,) = re.findall(r"`(gcloud run services update-traffic [^`]+)`", RUN_BOOK)
        await run(forth, environment)
        assert cloud_run.traffic == {second: 100}

        for command in commands("Drain"):
            await run(command, environment, REVISION=second)
        (third,) = cloud_run.traffic
        assert third not in (first, second)
        assert cloud_run.deleted == [second]


async def test_the_commands_to_pubsub_do_what_they_are_there_for(
    tmp_path: Path, emulator_address: str, topic: str
) -> None:
    """The real gcloud, at the emulator: an instance is killed, its orphan found and swept."""
    missing("gcloud")
    environment = {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_PUBSUB": f"http://{emulator_address}/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_PROJECT": PROJECT,
        "SERVICE": topic,
    }
    export, list_them, dry_run, sweep = commands("Orphan sweep")
    assert (export.split()[0], dry_run) == ("export", sweep.replace("--grace 60 --yes", "--dry-run"))
    environment["PUBSUB_EMULATOR_HOST"] = emulator_address
    environment["GOOGLE_CLOUD_PROJECT"] = PROJECT
    environment["CLOUD_SOCKETS_PUBSUB_TOPIC_NAME"] = topic
    on_cloud_run = {"K_SERVICE": topic, "CLOUD_SOCKETS_AUTH": "anonymous"}
    async with cluster(emulator_address, topic, 1, **on_cloud_run) as (seen, (instance,)):
        instance.kill()
        await instance.wait()
        (orphan,) = await seen.subscriptions()
        python = {"python": sys.executable}
        assert orphan in await run(list_them, environment, **python)
        assert orphan in await run(dry_run.replace("--dry-run", "--dry-run --grace 3"), environment, **python)
        assert await seen.subscriptions() == [orphan]
        assert orphan in await run(sweep.replace("60", "3"), environment, **python)
        assert await seen.subscriptions() == []
        describe = commands("The topic is out")[0]
        assert seen.path in await run(describe, environment, **{"cloud-sockets": topic})
