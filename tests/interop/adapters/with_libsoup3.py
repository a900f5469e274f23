"""libsoup 3, which WebKitGTK has its sockets from, by Debian's Python."""

import sys
from typing import Any

import gi  # type: ignore[import-not-found]

gi.require_version("Soup", "3.0")
from gi.repository import GLib, Soup  # type: ignore[import-not-found]  # noqa: E402

from tests.interop.adapters.lines import DEFLATE, LONGEST, URL, obey_in_thread, say  # noqa: E402

loop = GLib.MainLoop()
session = Soup.Session()
if DEFLATE:
    session.add_feature_by_type(Soup.WebsocketExtensionManager)


def opened(session: Any, result: Any) -> None:
    socket = session.websocket_connect_finish(result)
    socket.set_max_incoming_payload_size(LONGEST)
    socket.connect("message", lambda _socket, _kind, data: say("text", data.get_data().decode()))
    socket.connect("closed", lambda _: say("close", socket.get_close_code(), socket.get_close_data()))
    socket.connect("error", lambda _, error: say("ended", error))
    say("open")
    obey_in_thread(
        lambda text: GLib.idle_add(lambda: socket.send_text(text) and False),
        lambda: GLib.idle_add(lambda: socket.close(1000, "bye") and False),
    )


session.websocket_connect_async(
    Soup.Message(method="GET", uri=GLib.Uri.parse(URL, GLib.UriFlags.NONE)), None, None, 0, None, opened
)
loop.run()
sys.exit()
