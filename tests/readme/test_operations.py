"""What docs/operations.md names is there, in these words."""

import re

import pytest

from app.metrics import Metrics
from tests.support import terraform
from tests.support.process import ROOT

TEXT = (ROOT / "docs" / "operations.md").read_text()
CODE = "\n".join(path.read_text() for path in (ROOT / "app").rglob("*.py"))
TOOLS = (ROOT / ".ci" / "deploy").read_text() + (ROOT / "tests" / "smoke.py").read_text()
RUN_BOOK = TEXT[TEXT.index("## Run book") :]


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
    situations = re.findall(r"^### (.*)$", RUN_BOOK, re.MULTILINE)
    assert situations == ["Deploy", "Roll back", "Drain", "Orphan sweep", "A deaf instance", "The topic is out"]
