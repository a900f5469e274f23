"""lomond."""

from lomond import WebSocket

from tests.interop.adapters.lines import DEFLATE, URL, obey_in_thread, say

socket = WebSocket(URL, compress=DEFLATE)
for event in socket.connect(ping_rate=0):
    if event.name == "ready":
        say("open")
        obey_in_thread(socket.send_text, lambda: socket.close(1000, "bye"))
    elif event.name == "text":
        say("text", event.text)
    elif event.name in ("closing", "closed"):
        say("close", event.code, event.reason)
