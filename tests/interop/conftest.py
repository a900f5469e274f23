"""Tables of what ran, at the end."""

from collections.abc import Generator

import pytest

from tests.interop.table import Row, lines

ROWS = pytest.StashKey[list[Row]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what failed."""
    report = yield
    noted = getattr(item, "funcargs", {}).get("row")
    if report.failed and isinstance(noted, Row):
        noted.failed = True
    return report


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """What is noted of a test, for the table."""
    noted = Row()
    request.config.stash.setdefault(ROWS, []).append(noted)
    return noted


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows: list[Row] = config.stash.setdefault(ROWS, [])
    for line in lines(rows):
        terminalreporter.write_line(line)
