"""What Hypercorn has to be like is looked at once, at the start."""

import pytest
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.protocol import h2, h11
from hypercorn.protocol.ws_stream import Handshake, WSStream

from app.server.fit import misfits
from app.server.websocket_stream import WebSocketStream, teach_hypercorn


def streams() -> list[object]:
    """What Hypercorn makes of a socket."""
    return [getattr(module, "WSStream", None) for module in (h11, h2)]


def test_this_hypercorn_fits() -> None:
    assert misfits() == []
    with teach_hypercorn() as taught:
        assert taught
        assert streams() == [WebSocketStream] * 2
    assert streams() == [WSStream] * 2


@pytest.mark.parametrize(
    ("owner", "name"),
    [(WSStream, "_send_wsproto_event"), (WSStream, "app_send"), (TCPServer, "protocol_send"), (h2, "WSStream")],
)
def test_what_is_missing_is_named_and_nothing_changed(
    owner: object, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr(owner, name)
    (missing,) = misfits()
    assert missing.endswith(f".{name}")
    with teach_hypercorn() as taught:
        assert not taught
        assert WebSocketStream not in streams()
    assert f"not as it was checked (no {missing})" in caplog.text


def test_what_is_made_otherwise_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def otherwise(_self: object, _headers: object, _version: str, _more: object) -> None: ...

    monkeypatch.setattr(Handshake, "__init__", otherwise)
    (missing,) = misfits()
    assert missing.startswith("a stream: ")


def test_attributes_that_are_set_later_are_looked_for_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(_self: object) -> None: ...

    monkeypatch.setattr(TCPServer, "__init__", init)
    monkeypatch.setattr(TCPServer, "run", init)
    assert misfits() == ["TCPServer.protocol", "TCPServer.writer"]
