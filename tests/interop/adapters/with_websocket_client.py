"""websocket-client, by its WebSocketApp."""

from websocket import WebSocketApp

from tests.interop.adapters.lines import URL, obey_in_thread, say

app = WebSocketApp(
    URL,
    on_open=lambda _: say("open"),
    on_message=lambda _, text: say("text", text),
    on_error=lambda _, error: say("ended", repr(error)),
    on_close=lambda _, code, reason: say("close", code, reason),
)
obey_in_thread(app.send, lambda: app.close(status=1000, reason=b"bye"))
app.run_forever()
