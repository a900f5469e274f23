"""The README's tables say what the code does."""

import re
from collections.abc import Iterator

from app.client import comes_back
from app.protocol.close_codes import CloseCode
from app.protocol.errors import ErrorCode
from app.protocol.messages import BUILT_IN
from tests.support.process import ROOT
from tests.support.readme import README, with_tables


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of the table that begins with this heading."""
    lines = README.read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_tables_of_variables_and_metrics_are_the_codes() -> None:
    text = README.read_text()
    assert with_tables(text) == text, "make format writes them anew"


def test_every_error_code_is_told_of() -> None:
    told = {code for cells in rows("error code") for code in re.findall(r"`(\w+)`", cells[0])}
    assert told == set(ErrorCode)


def test_every_close_code_is_told_of_and_whether_to_come_back() -> None:
    told = {int(code): back.startswith("yes") for code, _, back in rows("close code")}
    assert told == {code.value: code.reconnect for code in CloseCode}


def test_every_message_type_is_told_of() -> None:
    told = {kind for cells in rows("a client sends") for kind in re.findall(r"`(\w+)`", cells[0])}
    replies = {"welcome", "error", "disconnect", "ping"}
    assert set(BUILT_IN) - replies <= told
    assert all(f"`{reply}`" in README.read_text() for reply in replies & set(BUILT_IN))


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README.read_text())) <= targets


def test_every_file_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:app|tests)/[\w/.]*)`", README.read_text())
    assert len(named) > 4
    assert all((ROOT / name).exists() for name in named)


def test_the_clients_come_back_as_is_told() -> None:
    for cells in rows("a socket ends with"):
        codes = [int(code) for code in re.findall(r"`(\d+)`", cells[0])]
        assert all(comes_back(code) == cells[1].startswith("yes") for code in codes), cells
