"""Fixtures of the tests over real sockets."""

import pytest

from tests.support.process import Server


@pytest.fixture(params=["frames", pytest.param("messages", marks=pytest.mark.once)])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server takes ready frames, and then it does not: what clients see is the same.

    Other servers than ours take none; how Quart serves those is tried on one Python.
    """
    if request.param == "messages":
        monkeypatch.setattr(Server, "module", "tests.support.by_message")
    return str(request.param)
