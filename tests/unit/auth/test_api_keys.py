"""Who may use HTTP."""

import pytest

from app.auth.api_keys import Access, ApiKeys


@pytest.mark.parametrize("header", ["Bearer one", "bearer two", "Bearer  two "])
def test_any_of_the_keys_opens(header: str) -> None:
    assert ApiKeys(["one", "two"], open_without=False).access(header) is Access.GRANTED


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer on", "Bearer one,two", "Basic one", "one", "Bearer é"]
)
def test_anything_else_does_not(header: str | None) -> None:
    assert ApiKeys(["one", "two"], open_without=True).access(header) is Access.NO_KEY


def test_without_keys_it_depends_on_where_it_runs() -> None:
    assert ApiKeys([], open_without=True).access(None) is Access.GRANTED
    assert ApiKeys([], open_without=False).access("Bearer x") is Access.CLOSED
