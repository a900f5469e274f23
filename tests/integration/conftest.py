"""Fixtures of the tests over real sockets."""

import pytest

from tests.support.process import Server


@pytest.fixture(params=["frames", "messages"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server takes ready frames, and then it does not: what clients see is the same."""
    if request.param == "messages":
        monkeypatch.setattr(Server, "module", "tests.support.by_message")
    return str(request.param)
