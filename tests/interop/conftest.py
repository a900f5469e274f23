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
    """Return the row of the table in which the results of a test are noted."""
    noted = Row()
    request.config.stash.setdefault(ROWS, []).append(noted)
    return noted


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows: list[Row] = config.stash.setdefault(ROWS, [])
    for line in lines(rows):
        terminalreporter.write_line(line)
